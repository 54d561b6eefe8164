"""Call the daemons on workers, by HTTP over mutual TLS.

Invariants
- A daemon is dialled at its address and checked by its name: the TLS library wants the worker's name in the
  certificate, and our own code wants the identity `<role>@<name>`, in a certificate that is current in the store,
  before a byte of the request is sent: a worker's other identities carry the same name, and a certificate that a
  decommissioning revoked is good for the TLS library until it ends.
- Each request has its own connection: peers are verified anew every time, and two workers that share an address
  after one another never share a connection.
- Every call ends: the connection and the whole have a limit. An answer is bounded, and it is held to the contract; one
  that does not fit is the worker's error.
- No proxy, no redirect, no environment variable has a say.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from pydantic import ValidationError

from decnet_core.endpoints import Endpoint
from decnet_core.errors import DecnetError, RemoteProtocolError, TrustError, Unavailable
from decnet_core.fleet import Contract
from decnet_core.identity import Identity, Role
from decnet_core.peer import Peer
from decnet_master.problems import error_of
from decnet_master.swarmctl.exchange import Answer, BrokenAnswer, NotReached, exchange

CONNECT_SECS = 5.0

MAX_ANSWER_BYTES = 4 << 20
"""A report on the largest shard is a tenth of it."""

Tls = Callable[[], ssl.SSLContext]
"""Gives the context for the next connection; it holds the master's identity and trusts its CA alone."""

IsCurrent = Callable[[Identity, str], Awaitable[bool]]
"""Tells whether a certificate of an identity is current in the store."""

Parsed = TypeVar("Parsed", bound=Contract)


@dataclass(frozen=True, slots=True)
class Worker:
    """Where a worker's daemon answers and what it must be called."""

    name: str
    address: str
    port: int


class WorkerCalls:
    """Calls one kind of daemon with the master's identity.

    Args:
        role: of the daemons.
        tls, is_current: see `Tls` and `IsCurrent`.
    """

    def __init__(self, role: Role, tls: Tls, is_current: IsCurrent) -> None:
        self._role = role
        self._tls = tls
        self._is_current = is_current
        self._advice = f"Check that `decnet-{role} serve` runs there and that the master reaches its port."

    async def call(
        self, worker: Worker, path: str, body: Contract | None, *, answer: type[Parsed], total_secs: float
    ) -> Parsed:
        """Ask, or with a body tell.

        Args:
            worker: whom.
            path: the request's target.
            body: what to tell.
            answer: what is expected.
            total_secs: how long all of it may take.

        Raises:
            Unavailable: it does not answer.
            TrustError: who answers is not this worker's daemon, or it refuses us.
            RemoteProtocolError: the answer is none of such a daemon.
            DecnetError: what it answered instead.
        """
        content = None if body is None else body.model_dump_json().encode()
        found = await self._exchanged(worker, path, content, total_secs=total_secs, max_bytes=MAX_ANSWER_BYTES)
        try:
            return answer.model_validate_json(found.content)
        except ValidationError as cause:
            raise misfit(worker, f"sent an answer that is no {answer.__name__}") from cause

    async def fetch(
        self, worker: Worker, path: str, into: Callable[[bytes], None], *, total_secs: float, max_bytes: int
    ) -> None:
        """Ask for bytes, and hand them on as they come; what was handed on before an error is worth nothing.

        Args:
            worker: whom.
            path: the request's target.
            into: takes each piece.
            total_secs: how long all of it may take.
            max_bytes: how much it may be.

        Raises:
            DecnetError: as `call`; and what `into` raises.
        """
        await self._exchanged(worker, path, None, total_secs=total_secs, max_bytes=max_bytes, into=into)

    async def _exchanged(
        self,
        worker: Worker,
        path: str,
        body: bytes | None,
        *,
        total_secs: float,
        max_bytes: int,
        into: Callable[[bytes], None] | None = None,
    ) -> Answer:
        expected = Identity(self._role, worker.name)
        try:
            async with asyncio.timeout(total_secs):
                found = await exchange(
                    Endpoint(worker.address, worker.port),
                    path,
                    body,
                    tls=self._tls(),  # the one of the moment
                    name=worker.name,
                    admit=partial(self._admit, expected),
                    connect_secs=CONNECT_SECS,
                    max_bytes=max_bytes,
                    into=into,
                )
        except TimeoutError:
            raise Unavailable(
                f"{worker.name} at {worker.address}:{worker.port} does not answer in time", self._advice
            ) from None
        except (NotReached, OSError, BrokenAnswer) as cause:
            raise _transport_error(worker, cause, self._advice) from cause
        if found.status != HTTPStatus.OK:
            raise _refusal(worker, found)
        return found

    async def _admit(self, expected: Identity, peer: Peer) -> None:
        """Judge who answers, between the handshake and the request."""
        if peer.identity != expected:
            raise TrustError(f"{expected} was dialled and {peer.identity} answered", "Check the worker's ports.")
        if not await self._is_current(peer.identity, peer.fingerprint):
            raise TrustError(
                f"{peer.identity} answered with a certificate that is not current: revoked, or not issued here",
                "If nobody intercepts the connection, enrol the worker again.",
            )


def misfit(worker: Worker, what: str) -> RemoteProtocolError:
    """Tell that an answer is none of what answers there."""
    return RemoteProtocolError(f"{worker.name} {what}", "Install the same release on the master and on its workers.")


def _transport_error(worker: Worker, cause: Exception, advice: str) -> DecnetError:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TrustError(
            f"Who answers at {worker.address}:{worker.port} is not {worker.name}: {cause.verify_message}",
            "Enrol the worker again, or correct its address.",
        )
    if isinstance(cause, NotReached):
        return Unavailable(f"{worker.name} cannot be reached at {worker.address}:{worker.port}", advice)
    return Unavailable(f"The connection to {worker.name} broke: {str(cause) or type(cause).__name__}", advice)


def _refusal(worker: Worker, answer: Answer) -> DecnetError:
    try:
        document = json.loads(answer.content)
    except (ValueError, RecursionError):
        document = None
    error = error_of(answer.status, document if isinstance(document, dict) else {})
    return type(error)(f"{worker.name}: {error.message}", error.advice)
