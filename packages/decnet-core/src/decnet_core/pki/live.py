"""The identity of a daemon that runs longer than its certificate: followed on disk, used from the next handshake on.

Another process renews (`decnet_core.pki.keystore`: a link is switched in one step). `watch` follows the link, proves
what it finds and swaps it in; what cannot be proved is told once and changes nothing. Nothing is restarted and no
connection is dropped: established ones keep what they agreed on.

- A server has one front context for ever. Its SNI callback, which OpenSSL calls for every handshake whether the client
  sent a name or not, gives the connection the context of the moment. So roots that are no longer trusted go too, which
  a context that serves cannot do by itself.
- A client asks for a context for each connection.

`renewal_due` says when a certificate is to be renewed: at two thirds of its life and a little later, by a fraction that
is drawn from its fingerprint. So a fleet that joined at one moment does not renew at one moment, and a process that
starts again comes to the same answer without having kept it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Self

import structlog

from decnet_core.errors import DecnetError, IdentityEnded, IdentityNotBegun, TrustError
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore, StoredIdentity
from decnet_core.pki.tls import Clients, client_context, server_context

WATCH_SECS = 2.0
"""Looking is one readlink."""

RENEW_AFTER = 2 / 3
"""Of a certificate's life; what is left is the time in which a master or a link may be away."""

SPREAD = 1 / 12
"""Of the life: over how long after it renewals are spread. Fourteen hours of seven days."""

log = structlog.get_logger()


def _utc_now() -> datetime:
    return datetime.now(UTC)


class LiveIdentity:
    """An identity that follows its renewals; `watch` is its task."""

    def __init__(self, store: KeyStore, role: Role, stored: StoredIdentity) -> None:
        self._store = store
        self._role = role
        self._stored = stored
        self._refused: str | None = None
        self._ended_told = False
        self._servers: list[_Server] = []
        self._clients: dict[tuple[str, ...], ssl.SSLContext] = {}

    @classmethod
    def open(cls, store: KeyStore, role: Role, now: datetime) -> Self:
        """Begin with the identity in use; raises as `KeyStore.load` does."""
        return cls(store, role, store.load(role, now))

    @classmethod
    async def awaited(cls, store: KeyStore, role: Role, every_secs: float = WATCH_SECS) -> Self:
        """Begin with the identity in use; one that has ended is waited for, because another process renews it.

        One whose time has not come is waited for too: the clock is set while a machine starts.

        Raises:
            TrustError: missing, damaged, open to others: what no other process mends.
        """
        told = False
        while True:
            try:
                return cls.open(store, role, _utc_now())
            except (IdentityEnded, IdentityNotBegun) as error:
                if not told:
                    log.warning("identity.awaited", role=role, reason=error.message)
                    told = True
            await asyncio.sleep(every_secs)

    @property
    def stored(self) -> StoredIdentity:
        """What new handshakes use now."""
        return self._stored

    def server_context(self, *, clients: Clients = Clients.REQUIRED, alpn: Sequence[str] = ()) -> ssl.SSLContext:
        """Make a server's context, which serves with the identity of the moment; arguments as for `tls`."""

        def make(stored: StoredIdentity) -> ssl.SSLContext:
            return server_context(stored.files, clients=clients, alpn=alpn)

        server = _Server(make, self._stored)
        self._servers.append(server)
        return server.front

    def client_context(self, alpn: Sequence[str] = ()) -> ssl.SSLContext:
        """Return the context for the next connection; it trusts the CAs that came with the identity."""
        key = tuple(alpn)
        if key not in self._clients:
            files = self._stored.files
            self._clients[key] = client_context(files, files.ca, alpn)
        return self._clients[key]

    def refresh(self, now: datetime) -> bool:
        """Take up what is in use on disk; return whether it is another identity than before.

        What cannot be proved, or belongs to somebody else, is logged once and not taken as long as it is so.
        """
        folder = None
        try:
            folder = self._store.in_use(self._role)
            if folder is None or folder == self._stored.files.key.parent:
                return False
            stored = self._store.load(self._role, now)
            if stored.identity != self._stored.identity:
                raise TrustError(
                    f"{folder} is of {stored.identity}, not of {self._stored.identity}", "Restart this program."
                )
            for server in self._servers:
                server.prepare(stored)
        except DecnetError as error:
            # It may be mended (a clock, a mode), so it is tried each time; it is told once.
            if error.message != self._refused:
                log.warning("identity.refused", role=self._role, reason=error.message, advice=error.advice)
            self._refused = error.message
            return False
        for server in self._servers:
            server.swap()
        self._clients.clear()
        self._stored, self._refused, self._ended_told = stored, None, False
        log.info("identity.changed", identity=str(stored.identity), ends=stored.not_after.isoformat())
        return True

    async def watch(self, on_change: Callable[[], None] = lambda: None, *, every_secs: float = WATCH_SECS) -> None:
        """Follow the identity for ever."""
        while True:
            await asyncio.sleep(every_secs)
            now = _utc_now()
            if self.refresh(now):
                on_change()
            elif now > self._stored.not_after and not self._ended_told:
                self._ended_told = True
                self._tell_the_end(now)

    def _tell_the_end(self, now: datetime) -> None:
        try:
            self._store.load(self._role, now)
        except DecnetError as error:  # which knows what is to be done about it
            log.warning("identity.ended", reason=error.message, advice=error.advice)


def renewal_due(stored: StoredIdentity) -> datetime:
    """Tell when an identity is to be renewed."""
    life = stored.not_after - stored.not_before
    fraction = int(stored.fingerprint[:8], 16) / 0x1_0000_0000
    return stored.not_before + life * (RENEW_AFTER + SPREAD * fraction)


class _Server:
    """A front context and the one behind it."""

    def __init__(self, make: Callable[[StoredIdentity], ssl.SSLContext], stored: StoredIdentity) -> None:
        self._make = make
        self._next = self._behind = make(stored)
        self.front = make(stored)
        self.front.sni_callback = self._choose

    def prepare(self, stored: StoredIdentity) -> None:
        self._next = self._make(stored)

    def swap(self) -> None:
        self._behind = self._next

    def _choose(self, tls: ssl.SSLObject, _name: str | None, _front: ssl.SSLContext) -> None:
        tls.context = self._behind
