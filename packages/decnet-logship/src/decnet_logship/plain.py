"""One connection to a receiver that speaks plain RFC 5425: octet-counted messages over TLS, and no acknowledgement.

For rsyslog, syslog-ng and others, where somebody wants the lines there as well as, or instead of, on a master. That
protocol has no word for "stored". The best that can be known is that the receiver's kernel has taken every byte
(`Dialled.unconfirmed_bytes` is 0), so that is what counts as sent: what the receiver still had in memory when it died
is lost, and what was on its way when a connection broke is sent again. The position is the register's; there is no
other.

At most a window is on its way. A receiver that takes nothing for too long is given up. An empty line is left out, the
rest of an over-long one too; a receiver has bounds of its own, rsyslog 8 KiB unless it is told otherwise.

Source: RFC 5425 §4.3, §5.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from decnet_core.endpoints import Endpoint
from decnet_core.errors import Unavailable
from decnet_core.pki.tls import IdentityFiles, client_context
from decnet_core.shipping.sender import Limits
from decnet_core.syslog.framing import encode_frames
from decnet_logship.connection import Source
from decnet_logship.dialling import READ_BYTES, Dialled, dial
from decnet_logship.tail import Cut, LogFile, Replaced

_POLL_SECS = (0.001, 0.05)  # first and longest pause between two looks at what the kernel still holds
_LAST_SECS = 1.0  # TCP's delayed acknowledgement comes within 0.2 s
_ADVICE = "The receiver's log says why; it must accept this worker's certificate."

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Receiver:
    """Whom to send to.

    Attributes:
        endpoint: where it listens.
        name: what its certificate names; None is the endpoint's host.
        ca: PEM of the CAs of its certificate.
    """

    endpoint: Endpoint
    name: str | None
    ca: Path


class PlainConnection:
    """An open connection; make one with `open`."""

    def __init__(self, dialled: Dialled, limits: Limits, source: Source) -> None:
        self._dialled = dialled
        self._reader = dialled.reader
        self._writer = dialled.writer
        self._limits = limits
        self._source = source
        self._file: LogFile | None = None  # of which lines may be on their way
        self._changed = asyncio.Event()  # the log grew
        self._writer.transport.set_write_buffer_limits(high=limits.window_bytes)

    @classmethod
    async def open(
        cls, receiver: Receiver, files: IdentityFiles, connect_secs: float, limits: Limits, source: Source
    ) -> PlainConnection:
        """Dial the receiver and shake hands.

        Raises:
            Unavailable: nobody answers.
            TrustError: who answers is not the receiver, or our identity cannot be used.
        """
        context = client_context(files, receiver.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # what RFC 9662 asks of syslog, and older daemons speak
        name = receiver.name or receiver.endpoint.host
        return cls(await dial(receiver.endpoint, context, name, connect_secs), limits, source)

    def close(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()

    def wake(self) -> None:
        """Say that the log may have changed."""
        self._changed.set()

    async def ship(self) -> None:
        """Ship files one after the other until the connection ends.

        Raises:
            Unavailable: why it ended.
        """
        tasks = [asyncio.create_task(self._hear(), name="hear"), asyncio.create_task(self._feed(), name="feed")]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not ended:
                await self._settle_at_last()
            self.close()
        for task in ended:
            await task

    async def _hear(self) -> None:
        """Wait for the end; what a receiver says in this protocol is nothing."""
        try:
            while await self._reader.read(READ_BYTES):
                pass
        except OSError as cause:
            why = getattr(cause, "reason", None) or cause.strerror or type(cause).__name__
            raise Unavailable(f"The connection to the receiver broke: {why}", _ADVICE) from cause
        raise Unavailable("The receiver closed the connection", _ADVICE)

    async def _feed(self) -> None:
        source = self._source
        while True:
            while (file := source.next_file()) is None:
                await self._change()
            try:
                if not file.seek_bytes(file.acked_bytes) and not source.shortened(file, file.acked_bytes):
                    continue
                source.resumed(file, file.offset)
                self._file = file
                await self._feed_file(file)
            except Replaced:
                await self._settle(file)
                self._file = None
                source.replaced(file)
            else:
                self._file = None
                source.finish(file)

    async def _feed_file(self, file: LogFile) -> None:
        settled_at = file.offset
        while True:
            self._changed.clear()
            final = self._source.is_final(file)  # asked before reading, as in `connection`
            piece = file.read()
            if isinstance(piece, Cut):
                log.warning("line.cut", path=str(file.path), stream=file.generation, missing_bytes=piece.rest)
                self._source.cut()
                piece = piece.line
            if isinstance(piece, bytes):
                self._writer.write(encode_frames(line for line in piece.split(b"\n") if line))
                self._source.sent()
            is_at_end = piece is None
            if file.offset - settled_at >= (1 if is_at_end else self._limits.window_bytes):
                await self._settle(file)
                settled_at = file.offset
            elif is_at_end and final:
                return
            elif is_at_end:
                await self._changed.wait()

    async def _settle_at_last(self) -> None:
        """We were asked to end: what arrives within a moment need not be sent again by the next start."""
        file = self._file
        if file is None:
            return
        with contextlib.suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(_LAST_SECS):
                await self._settle(file)

    async def _settle(self, file: LogFile) -> None:
        """Wait until the receiver's kernel has all that was written."""
        pause_secs, longest_secs = _POLL_SECS
        left, since = self._dialled.unconfirmed_bytes(), time.monotonic()
        while left:
            await asyncio.sleep(pause_secs)
            pause_secs = min(pause_secs * 2, longest_secs)
            before, left = left, self._dialled.unconfirmed_bytes()
            if left < before:
                since = time.monotonic()
            elif time.monotonic() - since > self._limits.ack_secs:
                raise Unavailable("The receiver takes nothing any more", _ADVICE)
        file.acked(file.offset)
        self._source.acked(file, file.offset)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
