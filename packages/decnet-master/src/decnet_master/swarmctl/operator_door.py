"""The controller's door for operators elsewhere: mutual TLS, one role, asked of the database at every request.

The TLS library lets in who holds a certificate of the private CA. Here, before the framework sees anything:

1. its role must be `operator`. An agent's, a shipper's, an updater's and the master's own certificate open nothing;
2. its operator and that very certificate must be current in the books now (`store.operators`);
3. what it asks for is written to the log with its name (`operator.asked`), and its name goes into every line that is
   written on its behalf.

Connections on which somebody was let in, also those with an answer under way, are looked at every `MUSTER_SECS`: who
was revoked since is cut off. One on which nobody was let in ends by itself, when it has been told why. While the
database is away they are left, since nothing new is answered then either.

Refusals are told, as many as `TOLD` at once for each certificate: a lost worker that asks without end must not fill a
disk. It then is not answered either, but with "too many".

A browser may hold such a certificate and be led here by any page, so the guard before this lets in only who asks for
`decnet-master` by name, as the CLI does whatever address it dials; a page cannot choose that.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from decnet_core.errors import DecnetError, TrustError
from decnet_core.identity import Role
from decnet_core.logs import shown
from decnet_core.peer import EXTENSION, Peer, peer_in
from decnet_master.http_app import answer_of
from decnet_master.http_server import Limits, connection_of
from decnet_master.rate_limit import RateLimit
from decnet_master.store.operators import Operators, Presented

LIMITS = Limits(connections=64)
"""People, each with a command or two; a connection lasts as long as a deploy."""

MUSTER_SECS = 2.0
"""Twice in the five seconds within which who is revoked shall be gone, and a second to spare."""

TOLD = 20
TELL_EVERY_SECS = 3.0

MAX_PATH_CHARS = 200

ON_THE_MASTER = "(master)"
"""Who steers without a certificate, because it may read the master's own secret; no operator can be named so."""

log = structlog.get_logger()


def steerer(scope: Scope) -> str:
    """Name who asks: an operator, or `ON_THE_MASTER`."""
    peer = (scope.get("extensions") or {}).get(EXTENSION)
    return peer.identity.host if isinstance(peer, Peer) else ON_THE_MASTER


class OperatorDoor:
    """A layer around the controller's rooms, and the list of who is connected.

    Args:
        app: the rooms.
        operators: who may steer.
        muster_secs: how often those who are connected are looked at.
        refusals: how often who may not is told so.
    """

    def __init__(
        self,
        app: ASGIApp,
        operators: Operators,
        muster_secs: float = MUSTER_SECS,
        refusals: RateLimit | None = None,
    ) -> None:
        self._app = app
        self._operators = operators
        self._muster_secs = muster_secs
        self._refusals = refusals or RateLimit(TOLD, TELL_EVERY_SECS, total_factor=1000)
        self._connected: dict[asyncio.Transport, Presented | None] = {}  # None: nobody was let in on it yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            peer = peer_in(scope)
            await self._admit(peer)
            connection = connection_of(scope)
            if connection in self._connected:  # it may have ended meanwhile
                self._connected[connection] = peer.identity.host, peer.fingerprint
        except DecnetError as error:
            return await answer_of(error, scope["state"]["request_id"])(scope, receive, send)
        told = False

        def tell(status: int) -> None:
            log.info(
                "operator.asked",
                operator=peer.identity.host,
                address=peer.address,
                method=scope["method"],
                path=shown(scope["path"], MAX_PATH_CHARS),
                status=status,
            )

        async def answer(message: Message) -> None:
            nonlocal told
            if message["type"] == "http.response.start":
                told = True
                tell(message["status"])  # now, not at the end: a deploy's answer may last for an hour
            await send(message)

        with structlog.contextvars.bound_contextvars(operator=peer.identity.host):
            try:
                await self._app(scope, receive, answer)
            finally:
                if not told:
                    tell(0)

    def enter(self, transport: asyncio.Transport) -> None:
        """Note a connection; its handshake is over."""
        self._connected[transport] = None

    def leave(self, transport: asyncio.Transport) -> None:
        """Forget a connection."""
        self._connected.pop(transport, None)

    async def muster(self) -> None:
        """Cut off who was revoked since it connected, for ever."""
        is_told = False
        while True:
            await asyncio.sleep(self._muster_secs)
            try:
                presented = {one for one in self._connected.values() if one is not None}
                current = await self._operators.current_among(presented, datetime.now(UTC))
            except DecnetError as error:
                if not is_told:
                    log.warning("operators.unchecked", reason=error.message)
                is_told = True
                continue
            is_told = False
            for transport, one in list(self._connected.items()):
                if one in presented - current:
                    self.leave(transport)
                    transport.abort()
                    log.warning("operator.cut", operator=one[0], reason="it is let in no more")

    async def _admit(self, peer: Peer) -> None:
        """Return for who may steer.

        Raises:
            TrustError: another role, or an operator who is not, or no longer, let in.
            TooManyRequests: it was told so often enough.
            Unavailable, RetryLater: the database does not answer.
        """
        name = peer.identity.host
        if peer.identity.role is not Role.OPERATOR:
            refusal = TrustError(
                f"{peer.identity} is not an operator", "Ask with an operator's certificate: `decnet-master operator`."
            )
        elif await self._operators.current_among([(name, peer.fingerprint)], datetime.now(UTC)):
            return
        else:
            refusal = TrustError(
                f"{peer.identity} is not let in here",
                f"If it should be, make a new request and have it signed: `decnet-master operator request {name}`.",
            )
        self._refusals.take(peer.fingerprint)
        log.warning("operator.refused", peer=str(peer.identity), address=peer.address, reason=refusal.message)
        raise refusal
