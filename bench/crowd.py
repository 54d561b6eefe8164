"""Many senders in one process, each with an identity, a connection and a log of its own: what `fan_in.py` starts.

    python -m bench.crowd PORT LINES-PER-S FOLDER NAME…          (data directories FOLDER/NAME)

A sender is the real machine of `decnet_core.shipping` on an asyncio transport; its log is in memory, from the last
acknowledged byte on. It writes its lines at their times, connected or not, and ships what there is. After a failure it
waits as decnet-logship does: evenly from zero to a bound that doubles.

It is told what to do by words on standard input and answers each with one line of JSON on standard output:

    connect SECS    connect all, spread evenly over SECS; answered when all are connected
    write SECS      write lines for SECS; answered when all are acknowledged, with the times that each took
    break           take note that the master goes away; answered at once
    heal AT         the master was back AT (monotonic clock); answered when all are connected and nothing is left
    end             say how many lines each sender wrote
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from decnet_core.identity import MASTER_HOST, Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import bound_connection_memory, client_context
from decnet_core.shipping.control import ALPN
from decnet_core.shipping.sender import Acked, Begin, Command, End, Limits, Send, Sender
from decnet_logship.settings import LogshipSettings
from decnet_logship.shipper import FIRST_DELAY_SECS

LONGEST_DELAY_SECS: float = LogshipSettings.model_fields["reconnect_max_secs"].default
CONNECT_SECS: float = LogshipSettings.model_fields["connect_timeout_secs"].default
TICK_SECS = 1.0
LEVEL_SECS = 0.02
_FILLER = b"x" * 220


def line_of(worker: str, number: int) -> bytes:
    """Make line `number` of a worker: some 300 bytes that any syslog parser takes."""
    return b"<165>1 - %s ssh - guest.line - line %d of a thousand others %s" % (worker.encode(), number, _FILLER)


def stream_of(worker: str) -> str:
    """Name a worker's one stream."""
    return worker.encode().hex()[:32].rjust(32, "0")


class Member(asyncio.Protocol):
    """One sender of the crowd."""

    def __init__(self, name: str, data: Path, port: int) -> None:
        files = KeyStore(data / "identities").load(Role.LOGSHIP, datetime.now(UTC)).files
        self._context: ssl.SSLContext = client_context(files, files.ca, (ALPN,))
        self._port = port
        self._log = bytearray()  # from `_base` on
        self._base = 0
        self._ends: deque[tuple[int, float]] = deque()  # of each line: its end in the stream, when it was written
        self._transport: asyncio.Transport | None = None
        self._machine = Sender(Limits())
        self._lost = asyncio.Event()
        self._delay_secs = FIRST_DELAY_SECS
        self.name = name
        self.lines = 0
        self.failures = 0
        self.resumed_at = 0.0
        self.is_connected = False
        self.latencies: list[float] = []

    async def stay_connected(self, after_secs: float) -> None:
        """Connect after a while, and again whenever the connection ends, for ever."""
        await asyncio.sleep(after_secs)
        loop = asyncio.get_running_loop()
        while True:
            self._lost.clear()
            self._machine = Sender(Limits())
            try:
                async with asyncio.timeout(CONNECT_SECS):
                    await loop.create_connection(
                        lambda: self, "127.0.0.1", self._port, ssl=self._context, server_hostname=MASTER_HOST
                    )
                await self._lost.wait()
            except (OSError, TimeoutError):
                pass
            self.failures += 1
            await asyncio.sleep(random.uniform(0, self._delay_secs))
            self._delay_secs = min(self._delay_secs * 2, LONGEST_DELAY_SECS)

    def write_line(self) -> None:
        """Write the next line, and ship it if that is possible."""
        line = line_of(self.name, self.lines) + b"\n"
        self.lines += 1
        self._log += line
        self._ends.append((self._base + len(self._log), time.monotonic()))
        self._feed()

    def tick(self) -> None:
        """Let time pass."""
        self._execute(self._machine.tick(time.monotonic()))

    @property
    def has_nothing_left(self) -> bool:
        """Whether all that was written is acknowledged."""
        return not self._ends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say which stream follows."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- what asyncio promises for a stream socket
        self._transport = transport
        self._execute(self._machine.hello(stream_of(self.name), time.monotonic()))

    def data_received(self, data: bytes) -> None:
        """Take the master's words."""
        self._execute(self._machine.receive(data, time.monotonic()))
        self._feed()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """Note that it is over; `stay_connected` goes on."""
        self._transport = None
        self.is_connected = False
        self._lost.set()

    def _feed(self) -> None:
        if self._transport is None or not self._machine.room_bytes:
            return
        unsent = bytes(memoryview(self._log)[self._machine.sent - self._base :])
        if unsent:
            self._execute(self._machine.lines(unsent, time.monotonic()))

    def _execute(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send(data) if self._transport is not None:
                    self._transport.write(data)
                case Begin(offset):
                    self.is_connected = True
                    self.resumed_at = time.monotonic()
                    self._forget(offset)
                case Acked(offset):
                    self._delay_secs = FIRST_DELAY_SECS
                    self._forget(offset)
                case End() if self._transport is not None:
                    self._transport.abort()
                case _:
                    pass

    def _forget(self, offset: int) -> None:
        """Drop what the master has, and note how long each line took."""
        now = time.monotonic()
        while self._ends and self._ends[0][0] <= offset:
            self.latencies.append(now - self._ends.popleft()[1])
        del self._log[: offset - self._base]
        self._base = offset


class Crowd:
    """All members of this process."""

    def __init__(self, members: list[Member], lines_per_s: float) -> None:
        self._members = members
        self._lines_per_s = lines_per_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken_at = 0.0

    async def connect(self, secs: float) -> dict[str, Any]:
        """Connect all."""
        began = time.monotonic()
        for number, member in enumerate(self._members):
            self._start(member.stay_connected(secs * number / len(self._members)))
        self._start(self._tick())
        await _reached(lambda: all(member.is_connected for member in self._members))
        return {"secs": time.monotonic() - began, "failures": self._failures()}

    async def write(self, secs: float) -> dict[str, Any]:
        """Write lines, wait for the last acknowledgement."""
        for member in self._members:
            member.latencies.clear()
        await self._write(secs)
        await _reached(lambda: all(member.has_nothing_left for member in self._members))
        return {"latencies": [round(secs, 6) for member in self._members for secs in member.latencies]}

    async def heal(self, back_at: float) -> dict[str, Any]:
        """Go on writing, and wait until everybody is back and nothing is left."""
        writing = asyncio.create_task(self._write(5.0))
        await _reached(lambda: all(member.resumed_at > self._broken_at for member in self._members))
        await writing
        await _reached(lambda: all(member.has_nothing_left for member in self._members))
        resumed = sorted(round(member.resumed_at - back_at, 3) for member in self._members)
        return {"resumed_secs": resumed, "clean_secs": time.monotonic() - back_at, "failures": self._failures()}

    def break_off(self) -> dict[str, Any]:
        """Take note that the master goes away now."""
        self._broken_at = time.monotonic()
        for member in self._members:
            member.failures = 0
        return {}

    def lines(self) -> dict[str, Any]:
        """Tell how many lines each member wrote."""
        return {member.name: member.lines for member in self._members}

    async def _write(self, secs: float) -> None:
        """Write every member's lines at their times; the members' beats are spread evenly."""
        gap_secs = 1 / self._lines_per_s / len(self._members)
        began = time.monotonic()
        for number, member in enumerate(self._turns(secs)):
            early_secs = began + number * gap_secs - time.monotonic()
            if early_secs > 0:
                await asyncio.sleep(early_secs)
            elif number % 100 == 0:
                await asyncio.sleep(0)  # behind its times: the answers must be heard all the same
            member.write_line()

    def _turns(self, secs: float) -> Iterator[Member]:
        for _ in range(round(secs * self._lines_per_s)):
            yield from self._members

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECS)
            for member in self._members:
                member.tick()

    def _failures(self) -> int:
        return sum(member.failures for member in self._members)

    def _start(self, work: Any) -> None:
        self._tasks.add(asyncio.create_task(work))


async def _reached(level: Any) -> None:
    """Wait for a level; who started this process bounds it."""
    while not level():  # noqa: ASYNC110 -- a level of a thousand members; what moves it is not worth a thousand events
        await asyncio.sleep(LEVEL_SECS)


async def main() -> None:
    """Do what standard input says."""
    bound_connection_memory()
    port, rate, folder = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    crowd = Crowd([Member(name, folder / name, port) for name in sys.argv[4:]], rate)
    while words := (await asyncio.to_thread(sys.stdin.readline)).split():
        match words:
            case ["connect", secs]:
                answer = await crowd.connect(float(secs))
            case ["write", secs]:
                answer = await crowd.write(float(secs))
            case ["break"]:
                answer = crowd.break_off()
            case ["heal", back_at]:
                answer = await crowd.heal(float(back_at))
            case _:
                answer = crowd.lines()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
