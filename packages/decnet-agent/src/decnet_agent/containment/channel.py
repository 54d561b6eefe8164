"""What the agent says to the containment process over `<run-directory>/containment.sock`.

A unix stream socket, 0600; one line of JSON each way, then it is over:

    {"verb": "hold", "interface": I, "policy": {…}}     these deckies may speak on I, as well as those that may already
    {"verb": "keep", "interface": I, "policy": {…}}     these and no others, on I and nowhere else
    {"verb": "status", "decky": NAME or null}           how it stands; what this decky tried lately

The answer is a `Status`: to `hold` and `keep` only after the kernel enforces it. What cannot be enforced is answered
with `error`. Whoever is neither root nor the process's own user is hung up on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Literal, Protocol

import structlog
from pydantic import Field, ValidationError

from decnet_agent.containment.pairs import InterfaceName, Pair, Passage, Policy
from decnet_agent.evidence.sensors import is_ours, listen_at
from decnet_core.errors import DecnetError, RemoteProtocolError, Unavailable
from decnet_core.fleet import Contract, HostName

MAX_LINE_BYTES = 1 << 20
"""Two thousand pairs with their services' ports are a third of it."""

CALL_SECS = 15.0
"""The kernel takes a thousand deckies in 50 ms; a process that was killed is back within two seconds."""

RETRY_SECS = 0.1
_CALLERS = 16

log = structlog.get_logger()


class Request(Contract):
    """What is asked."""

    verb: Literal["hold", "keep", "status"]
    interface: InterfaceName | None = None
    policy: Policy = Policy()
    decky: HostName | None = None


class Tried(Contract):
    """What a decky tried within the last minute, and how many frames of it were blocked."""

    protocol: str
    target_ip: str
    target_port: int
    reason: str
    frames: int


class InterfaceStatus(Contract):
    """How one interface is guarded; `owned` tells whether nobody else can change the rules."""

    name: str
    pairs: int
    owned: bool
    fault: str | None = None


class Status(Contract):
    """How it stands.

    Attributes:
        enforcing: whether everything that was asked for is in the kernel, seen a moment ago.
        blocked, lost: frames; lost ones were blocked as well, but nobody saw what they were.
    """

    enforcing: bool
    interfaces: Annotated[tuple[InterfaceStatus, ...], Field(max_length=64)] = ()
    blocked: int = 0
    lost: int = 0
    tried: tuple[Tried, ...] = ()
    error: str | None = None
    advice: str = ""


Answer = Callable[[Request], Awaitable[Status]]


async def serve_channel(path: Path, answer: Answer, ready: Callable[[], None]) -> None:
    """Answer until cancelled.

    Raises:
        Unavailable: the socket cannot be made.
    """
    callers = asyncio.Semaphore(_CALLERS)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if is_ours(writer):
                async with callers, asyncio.timeout(CALL_SECS):
                    await _one_call(reader, writer, answer)
            else:
                log.warning("containment.caller_refused")
        # TimeoutError is an OSError; ValueError is a line beyond the limit
        except (OSError, ValueError, RemoteProtocolError) as cause:
            log.warning("containment.caller_lost", reason=str(cause) or type(cause).__name__)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(one, sock=listen_at(path), limit=MAX_LINE_BYTES)
    try:
        ready()
        await asyncio.Event().wait()
    finally:
        server.close()


class Guarding(Protocol):
    """What guards deckies, as those see it who start them."""

    async def hold(self, interface: str, pairs: list[Pair]) -> None:
        """Have these deckies guarded before any of them starts."""

    async def keep(self, interface: str, pairs: list[Pair]) -> None:
        """Say that these deckies are all there are."""

    async def state(self) -> str:
        """Tell how it stands: `kernel`, `none`, `silent` when nobody says, or `off`."""


class Unguarded:
    """The operator's word that deckies may do as they like (`containment = off`)."""

    async def hold(self, interface: str, pairs: list[Pair]) -> None:
        """Do nothing."""

    async def keep(self, interface: str, pairs: list[Pair]) -> None:
        """Do nothing."""

    async def state(self) -> str:
        """Tell that it is off."""
        return "off"


class Guard:
    """The agent's end.

    Args:
        path: of the socket.
        passages, passage_per_second: where the operator lets deckies go.
    """

    def __init__(self, path: Path, passages: tuple[Passage, ...] = (), passage_per_second: int = 5) -> None:
        self._path = path
        self._passages, self._per_second = passages, passage_per_second

    async def hold(self, interface: str, pairs: list[Pair]) -> None:
        """Have these deckies guarded before any of them starts.

        Raises:
            Unavailable: they are not, and must not start.
        """
        await self._call(Request(verb="hold", interface=interface, policy=self._policy(pairs)))

    async def keep(self, interface: str, pairs: list[Pair]) -> None:
        """Say that these deckies are all there are.

        Raises:
            Unavailable: it could not be done; what was held is held on.
        """
        await self._call(Request(verb="keep", interface=interface, policy=self._policy(pairs)))

    async def state(self) -> str:
        """Tell how it stands."""
        try:
            return "kernel" if (await self.status()).enforcing else "none"
        except Unavailable:
            return "silent"

    async def status(self, decky: str | None = None) -> Status:
        """Ask how it stands.

        Raises:
            Unavailable: nobody answers.
        """
        return await self._call(Request(verb="status", decky=decky), patient=False)

    def _policy(self, pairs: list[Pair]) -> Policy:
        return Policy(pairs=tuple(pairs), passages=self._passages, passage_per_second=self._per_second)

    async def _call(self, request: Request, *, patient: bool = True) -> Status:
        try:
            async with asyncio.timeout(CALL_SECS):
                line = await self._exchange(request.model_dump_json().encode() + b"\n", patient=patient)
            status = Status.model_validate_json(line)
        except (OSError, ValidationError, ValueError) as cause:
            raise Unavailable(
                "Nothing contains the deckies: the containment process does not answer",
                "Start it (`systemctl start decnet-containment`); `journalctl -u decnet-containment` says more.",
            ) from cause
        if status.error is not None:
            raise Unavailable(f"Nothing contains the deckies: {status.error}", status.advice)
        return status

    async def _exchange(self, line: bytes, *, patient: bool) -> bytes:
        reader, writer = await self._connect(patient=patient)
        try:
            writer.write(line)
            await writer.drain()
            return await reader.readline()
        finally:
            writer.close()

    async def _connect(self, *, patient: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            try:
                return await asyncio.open_unix_connection(str(self._path), limit=MAX_LINE_BYTES)
            except (FileNotFoundError, ConnectionRefusedError):  # it is being started, or again
                if not patient:
                    raise
                await asyncio.sleep(RETRY_SECS)


async def _one_call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
    try:
        request = Request.model_validate_json(await reader.readline())
    except ValidationError as cause:
        raise RemoteProtocolError("A caller asked for something else than containment") from cause
    try:
        status = await answer(request)
    except DecnetError as error:
        status = Status(enforcing=False, error=error.message, advice=error.advice)
    writer.write(status.model_dump_json().encode() + b"\n")
    await writer.drain()
