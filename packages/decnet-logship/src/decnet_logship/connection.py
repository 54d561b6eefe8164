"""One connection to the master: the sender's machine between the TLS stream and the log's files.

Three tasks: one reads answers, one lets time pass, one feeds lines. The first that ends ends the connection, with
its error. Only the machine knows what was sent and acknowledged; writing to a socket means nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import Protocol

import structlog

from decnet_core.endpoints import Endpoint
from decnet_core.errors import RemoteProtocolError, TrustError, Unavailable
from decnet_core.identity import MASTER, MASTER_HOST
from decnet_core.peer import peer_of
from decnet_core.shipping.control import ALPN
from decnet_core.shipping.sender import Acked, Begin, Command, End, Limits, Send, Sender, Skipped, State
from decnet_logship.tail import Hole, LogFile

TICK_SECS = 0.5
_READ_BYTES = 64 << 10
_CLOSE_SECS = 2.0

log = structlog.get_logger()


class Source(Protocol):
    """Where a connection takes files from, and whom it tells how far it came."""

    def next_file(self, after: str) -> LogFile | None:
        """Open the file to ship after the one of that generation; None while there is none. The caller closes it."""

    def is_final(self, file: LogFile) -> bool:
        """Tell whether the file grows no more."""

    def finish(self, file: LogFile, acked: int) -> None:
        """Take note that the master has all lines of a final file."""

    def resumed(self, stream: str, offset: int) -> None:
        """Take note of where a stream goes on."""

    def acked(self, stream: str, offset: int) -> None:
        """Take note of what the master has."""

    def skipped(self) -> None:
        """Count a line that could not be shipped."""


class Connection:
    """An open connection; make one with `open`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits, source: Source
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._machine = Sender(limits)
        self._source = source
        self._stream = ""
        self._changed = asyncio.Event()  # the log grew, or an answer came

    @classmethod
    async def open(
        cls, endpoint: Endpoint, context: ssl.SSLContext, connect_secs: float, limits: Limits, source: Source
    ) -> Connection:
        """Dial the master and shake hands.

        Raises:
            Unavailable: nobody answers.
            TrustError: who answers is not our master.
            RemoteProtocolError: it does not speak `decnet-log/1`.
        """
        try:
            async with asyncio.timeout(connect_secs):
                reader, writer = await asyncio.open_connection(
                    endpoint.host, endpoint.port, ssl=context, server_hostname=MASTER_HOST, limit=_READ_BYTES
                )
        except ssl.SSLError as cause:
            why = getattr(cause, "verify_message", None) or cause.reason or "the handshake failed"
            raise TrustError(
                f"What answers at {endpoint} is not this worker's master: {why}",
                "Correct the setting master; if the master's CA was made anew, join again.",
            ) from cause
        except (OSError, TimeoutError) as cause:
            why = getattr(cause, "strerror", None) or "no answer in time"
            raise Unavailable(f"Cannot reach the master at {endpoint}: {why}", "Start its listener.") from cause
        connection = cls(reader, writer, limits, source)
        try:
            connection._check_peer(endpoint)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()

    def wake(self) -> None:
        """Say that the log may have changed."""
        self._changed.set()

    async def ship(self) -> None:
        """Ship files one after the other until the connection ends.

        Raises:
            Unavailable, RemoteProtocolError: why the connection ended.
        """
        tasks = [
            asyncio.create_task(self._hear(), name="hear"),
            asyncio.create_task(self._tick(), name="tick"),
            asyncio.create_task(self._feed(), name="feed"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            self.close()
        for task, result in zip(tasks, results, strict=True):
            if task in done and isinstance(result, BaseException):
                raise result

    def _check_peer(self, endpoint: Endpoint) -> None:
        peer = peer_of(self._writer.transport)
        if peer is None or peer.identity != MASTER:
            raise TrustError(f"What answers at {endpoint} is not a master", "Correct the setting master.")
        if self._writer.get_extra_info("ssl_object").selected_alpn_protocol() != ALPN:
            raise RemoteProtocolError(
                f"What answers at {endpoint} does not speak {ALPN}", "Let the setting master name the listener."
            )

    async def _hear(self) -> None:
        while True:
            try:
                data = await self._reader.read(_READ_BYTES)
            except OSError as cause:  # also ssl.SSLError: the master's alert, for one that it refuses
                why = getattr(cause, "reason", None) or cause.strerror or type(cause).__name__
                raise Unavailable(f"The connection to the master broke: {why}", _ASK_MASTER) from cause
            if not data:
                raise Unavailable("The master closed the connection", _ASK_MASTER)
            self._execute(self._machine.receive(data, time.monotonic()))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECS)
            self._execute(self._machine.tick(time.monotonic()))

    async def _feed(self) -> None:
        while True:
            while (file := self._source.next_file(self._stream)) is None:
                await self._change()
            with contextlib.closing(file):
                self._stream = file.generation
                self._execute(self._machine.hello(file.generation, time.monotonic()))
                while self._machine.state is not State.SHIPPING:
                    await self._change()
                await self._feed_file(file)
                self._source.finish(file, self._machine.acked)

    async def _feed_file(self, file: LogFile) -> None:
        """Ship a file to its end: until it grows no more and all of it is acknowledged."""
        machine = self._machine
        while True:
            self._changed.clear()
            final = self._source.is_final(
                file
            )  # asked before reading: what was written before the rotation is there now
            if final and machine.sent > file.size_bytes():
                return  # a power cut shortened it after the master had it
            piece = file.read(machine.sent) if machine.room_bytes else None
            if isinstance(piece, Hole):
                self._execute(machine.skip(piece.length, time.monotonic()))
            elif piece:
                self._execute(machine.lines(piece, time.monotonic()))
            elif final and machine.room_bytes and machine.acked == machine.sent:
                return
            else:
                await self._changed.wait()
            await self._drain()

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError as cause:
            raise Unavailable("The connection to the master broke", _ASK_MASTER) from cause

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _execute(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send(data):
                    self._writer.write(data)
                case Begin(offset):
                    self._source.resumed(self._stream, offset)
                case Acked(offset):
                    self._source.acked(self._stream, offset)
                case Skipped(offset, length):
                    log.warning("line.skipped", stream=self._stream, offset=offset, length=length)
                    self._source.skipped()
                case End(error):
                    raise error
        self._changed.set()


_ASK_MASTER = "If it happens again, the listener's log on the master says why; this worker may not be active there."
