"""Speak HTTP to the agents on the workers: the package's one adapter for it.

Invariants
- An agent is dialled at its address and checked by its name: the TLS library wants the worker's name in the
  certificate, and our own code wants the identity `agent@<name>`, in a certificate that is current in the store, before
  a byte of the request is sent: a worker's other identities carry the same name, and a certificate that a
  decommissioning revoked is good for the TLS library until it ends.
- Each request has its own connection: peers are verified anew every time, and two workers that share an address
  after one another never share a connection.
- Every call ends: the connection, each silence and the whole have a limit. An answer is bounded, and it is held to
  the contract; one that does not fit is the worker's error.
- No proxy, no redirect, no environment variable has a say.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from decnet_core.endpoints import Endpoint
from decnet_core.errors import DecnetError, RemoteProtocolError, TrustError, Unavailable
from decnet_core.fleet import AgentStatus, Contract, Health, Shard, ShardReport
from decnet_core.identity import Identity, Role
from decnet_core.peer import peer_of
from decnet_master.problems import error_of

CONNECT_SECS = 5.0
ASK_SECS = 15.0
"""A status answer, in all."""

HEALTH_SECS = 8.0
"""Whether it is there, in all: an agent that builds images answers this at once."""

APPLY_SECS = 15 * 60.0
"""A shard, in all: a worker's first may have to build an image, which took up to five minutes on a small machine."""

MAX_ANSWER_BYTES = 4 << 20
"""A report on the largest shard is a tenth of it."""

Answer = TypeVar("Answer", bound=Contract)


@dataclass(frozen=True, slots=True)
class Worker:
    """Where an agent answers and what it must be called."""

    name: str
    address: str
    port: int

    @property
    def url(self) -> str:
        """The base of the agent's URLs."""
        return f"https://{Endpoint(self.address, self.port)}"


class AgentClient:
    """Calls agents with the master's identity.

    Args:
        tls: gives the context for the next connection; it holds the master's identity and trusts its CA alone.
        is_current: tells whether a certificate of an identity is current in the store.
    """

    def __init__(
        self, tls: Callable[[], ssl.SSLContext], is_current: Callable[[Identity, str], Awaitable[bool]]
    ) -> None:
        self._tls = tls
        self._is_current = is_current

    async def health(self, worker: Worker) -> Health:
        """Ask whether the agent is there.

        Raises:
            Unavailable: it does not answer.
            TrustError: who answers is not this worker's agent, or it refuses us.
            RemoteProtocolError: the answer is none of an agent.
        """
        return await self._call(worker, "/health", None, answer=Health, total_secs=HEALTH_SECS)

    async def status(self, worker: Worker) -> AgentStatus:
        """Ask what runs there; raises as `health` does."""
        return await self._call(worker, "/status", None, answer=AgentStatus, total_secs=ASK_SECS)

    async def deploy(self, worker: Worker, shard: Shard) -> ShardReport:
        """Send all that the worker shall run; raises as `health` does, and Conflict when it knows something newer."""
        return await self._apply(worker, "/deploy", shard)

    async def teardown(self, worker: Worker, shard: Shard) -> ShardReport:
        """Send a shard that holds fewer deckies than before; raises as `deploy` does."""
        return await self._apply(worker, "/teardown", shard)

    async def _apply(self, worker: Worker, path: str, shard: Shard) -> ShardReport:
        report = await self._call(worker, path, shard, answer=ShardReport, total_secs=APPLY_SECS)
        if report.host != worker.name or report.generation != shard.generation:
            raise _not_an_agent(worker, "reported on another shard")
        return report

    async def _call(
        self, worker: Worker, path: str, body: Contract | None, *, answer: type[Answer], total_secs: float
    ) -> Answer:
        request = httpx.Request(
            "GET" if body is None else "POST",
            worker.url + path,
            content=None if body is None else body.model_dump_json(),
            headers={"content-type": "application/json"} if body is not None else {},
            extensions={
                "sni_hostname": worker.name,
                "trace": _Check(Identity(Role.AGENT, worker.name), self._is_current),
                "timeout": httpx.Timeout(total_secs, connect=CONNECT_SECS).as_dict(),
            },
        )
        try:
            async with asyncio.timeout(total_secs):
                status, content = await self._send(request)
        except TimeoutError:
            raise Unavailable(f"{worker.name} did not answer within {total_secs:.0f} s", _ADVICE) from None
        except httpx.HTTPError as cause:
            raise _transport_error(worker, cause) from cause
        if status != httpx.codes.OK:
            raise _refusal(worker, status, content)
        try:
            return answer.model_validate_json(content)
        except ValidationError as cause:
            raise _not_an_agent(worker, f"sent an answer that is no {answer.__name__}") from cause

    async def _send(self, request: httpx.Request) -> tuple[int, bytes]:
        # A client for each call: its context is the one of the moment, and no connection is used twice anyway.
        async with httpx.AsyncClient(verify=self._tls(), trust_env=False, follow_redirects=False) as http:
            response = await http.send(request, stream=True)
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise httpx.RemoteProtocolError(f"an answer larger than {MAX_ANSWER_BYTES} bytes")
            return response.status_code, bytes(content)


class _Check:
    """Looks at the peer's identity between the handshake and the request."""

    def __init__(self, expected: Identity, is_current: Callable[[Identity, str], Awaitable[bool]]) -> None:
        self._expected = expected
        self._is_current = is_current

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event != "connection.start_tls.complete":
            return
        stream = info["return_value"]
        peer = peer_of(stream)
        if peer is None or peer.identity != self._expected:
            await stream.aclose()
            found = peer.identity if peer is not None else "nobody"
            raise TrustError(f"{self._expected} was dialled and {found} answered", "Check the worker's ports.")
        try:
            current = await self._is_current(peer.identity, peer.fingerprint)
        except DecnetError:
            await stream.aclose()
            raise
        if not current:
            await stream.aclose()
            raise TrustError(
                f"{peer.identity} answered with a certificate that is not current: revoked, or not issued here",
                "If nobody intercepts the connection, enrol the worker again.",
            )


_ADVICE = "Check that `decnet-agent serve` runs there and that the master reaches its port."


def _transport_error(worker: Worker, cause: httpx.HTTPError) -> DecnetError:
    seen: BaseException | None = cause
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return TrustError(
                f"Who answers at {worker.address}:{worker.port} is not {worker.name}: {seen.verify_message}",
                "Enrol the worker again, or correct its address.",
            )
        seen = seen.__cause__ or seen.__context__
    if isinstance(cause, httpx.TimeoutException):
        return Unavailable(f"{worker.name} at {worker.address}:{worker.port} does not answer in time", _ADVICE)
    if isinstance(cause, httpx.ConnectError):
        return Unavailable(f"{worker.name} cannot be reached at {worker.address}:{worker.port}", _ADVICE)
    return Unavailable(f"The connection to {worker.name} broke: {type(cause).__name__}", _ADVICE)


def _refusal(worker: Worker, status: int, content: bytes) -> DecnetError:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    error = error_of(status, document if isinstance(document, dict) else {})
    return type(error)(f"{worker.name}: {error.message}", error.advice)


def _not_an_agent(worker: Worker, what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"{worker.name} {what}", "Install the same release on the master and on its workers.")
