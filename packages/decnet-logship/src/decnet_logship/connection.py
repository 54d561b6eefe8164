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
from decnet_logship.dialling import READ_BYTES, dial
from decnet_logship.tail import Cut, Hole, LogFile, Replaced

TICK_SECS = 0.5

log = structlog.get_logger()


class Source(Protocol):
    """Where a connection takes files from, and whom it tells how far it came."""

    def next_file(self) -> LogFile | None:
        """Return the file to ship, open; None while there is none."""

    def is_final(self, file: LogFile) -> bool:
        """Tell whether the file grows no more."""

    def finish(self, file: LogFile) -> None:
        """Take note that the master has all lines of a final file."""

    def replaced(self, file: LogFile) -> None:
        """Take note that a file's bytes are other ones now."""

    def shortened(self, file: LogFile, offset: int) -> bool:
        """Take note that a file does not hold the offset at which the master wants it; tell whether it goes on."""

    def resumed(self, file: LogFile, offset: int) -> None:
        """Take note of where a file's stream goes on."""

    def sent(self) -> None:
        """Take note that lines were sent."""

    def acked(self, file: LogFile, offset: int) -> None:
        """Take note of what the master has."""

    def cut(self) -> None:
        """Count a line that was cut."""

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
        self._file: LogFile | None = None
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
        dialled = await dial(endpoint, context, MASTER_HOST, connect_secs)
        connection = cls(dialled.reader, dialled.writer, limits, source)
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
                data = await self._reader.read(READ_BYTES)
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
        source, machine = self._source, self._machine
        while True:
            while (file := source.next_file()) is None:
                await self._change()
            self._file = file
            self._execute(machine.hello(file.generation, time.monotonic()))
            while machine.state is not State.SHIPPING:
                await self._change()
            try:
                if not await self._placed(file, machine.sent) and not source.shortened(file, machine.sent):
                    continue
                source.resumed(file, machine.sent)
                await self._feed_file(file)
            except Replaced:
                while machine.acked < machine.sent:
                    await self._change()
                source.replaced(file)
            else:
                source.finish(file)

    async def _placed(self, file: LogFile, offset: int) -> bool:
        """Let the file stand at an offset; where lines must be counted for that, beside the loop.

        Whoever cancels waits until that is done, some seconds for gigabytes: the file is closed behind us, and its
        descriptor's number is given to another.
        """
        if not file.label:
            return file.seek(offset)
        counting = asyncio.get_running_loop().run_in_executor(None, file.seek, offset)
        try:
            return await asyncio.shield(counting)
        except asyncio.CancelledError:
            while not counting.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({counting})
            counting.exception()  # whatever came of it, it was seen
            raise

    async def _feed_file(self, file: LogFile) -> None:
        """Ship a file to its end: until it grows no more and all of it is acknowledged."""
        machine = self._machine
        while True:
            self._changed.clear()
            # asked before reading: what was written before the rotation is there now
            final = self._source.is_final(file)
            piece = file.read() if machine.room_bytes else None
            now = time.monotonic()
            match piece:
                case bytes():
                    self._execute(machine.lines(piece, now))
                case Cut(line, rest):
                    log.warning("line.cut", path=str(file.path), stream=file.generation, missing_bytes=rest)
                    self._source.cut()
                    self._execute(machine.lines(line, now))
                    self._declare(rest)
                case Hole(length):
                    self._declare(length)
                case None if final and machine.room_bytes and machine.acked == machine.sent:
                    return
                case None:
                    await self._changed.wait()
                    continue
            self._source.sent()
            await self._drain()

    def _declare(self, length: int) -> None:
        """Declare the rest of a line that was cut; that it was cut is said already."""
        commands = self._machine.skip(length, time.monotonic())
        self._execute([command for command in commands if not isinstance(command, Skipped)])

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError as cause:
            raise Unavailable("The connection to the master broke", _ASK_MASTER) from cause

    def _ack(self, offset: int) -> None:
        if self._file is not None:
            self._file.acked(offset)
            self._source.acked(self._file, offset)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _execute(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send(data):
                    self._writer.write(data)
                case Begin():
                    pass  # `sent` says it too, and the feeder is woken
                case Acked(offset):
                    self._ack(offset)
                case Skipped(offset, length):
                    log.warning(
                        "line.skipped",
                        stream=self._file.generation if self._file else None,
                        offset=offset,
                        length=length,
                    )
                    self._source.skipped()
                case End(error):
                    raise error
        self._changed.set()


_ASK_MASTER = "If it happens again, the listener's log on the master says why; this worker may not be active there."
