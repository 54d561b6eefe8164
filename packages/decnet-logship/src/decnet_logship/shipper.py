"""Keep one log shipped, for ever: one connection at a time, again and again.

After a failure the pause is drawn evenly from zero to a bound that doubles from `FIRST_DELAY_SECS` to the configured
longest (full jitter): a thousand workers whose master comes back do not come back at once. A connection that got
something acknowledged starts the doubling anew.

The identity is read again for each connection, so a renewed certificate is used without a restart.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from decnet_core.errors import DecnetError
from decnet_core.shipping.sender import Refused
from decnet_logship.connection import Source
from decnet_logship.rotation import Rotation
from decnet_logship.state import LogState, StateWriter, timestamp
from decnet_logship.tail import LogFile, Unreadable, unreadable

FIRST_DELAY_SECS = 0.2

log = structlog.get_logger()


class Link(Protocol):
    """An open connection."""

    def close(self) -> None:
        """Drop it."""

    def wake(self) -> None:
        """Say that the log may have changed."""

    async def ship(self) -> None:
        """Ship until the connection ends, and raise why."""


Dial = Callable[[Source], Awaitable[Link]]
"""Opens a connection that takes files from a source; raises a DecnetError when there is none to be had."""


class Backoff:
    """How long to wait before the next attempt, in seconds; `draw` is evenly distributed over [0, bound]."""

    def __init__(self, longest_secs: float, draw: Callable[[float], float] | None = None) -> None:
        self._longest_secs = longest_secs
        self._draw = draw or (lambda bound: random.uniform(0, bound))  # noqa: S311 -- spreads load, hides nothing
        self._bound_secs = FIRST_DELAY_SECS

    def failed(self) -> float:
        """Return the pause after a failure; the next one may be twice as long."""
        pause_secs = self._draw(min(self._bound_secs, self._longest_secs))
        self._bound_secs = min(self._bound_secs * 2, self._longest_secs)
        return pause_secs

    def progressed(self) -> None:
        """Begin anew: something was acknowledged."""
        self._bound_secs = FIRST_DELAY_SECS


class Shipper:
    """Ships one log; a `connection.Source`.

    Args:
        rotation: the log's files.
        dial: opens connections.
        writer: where the state goes; this shipper's part is appended to it.
        acked_before: what was acknowledged before the daemon started, by stream.
        longest_pause_secs: between two attempts.
    """

    def __init__(
        self,
        rotation: Rotation,
        dial: Dial,
        writer: StateWriter,
        acked_before: dict[str, int],
        longest_pause_secs: float,
    ) -> None:
        self._rotation = rotation
        self._dial = dial
        self._writer = writer
        self._acked_before = acked_before
        self._backoff = Backoff(longest_pause_secs)
        self._state = LogState(str(rotation.path))
        self._link: Link | None = None
        self._log_changed = asyncio.Event()
        writer.state.logs.append(self._state)
        writer.ask_before_writing(rotation.remember)

    def wake(self) -> None:
        """Say that the log may have changed."""
        self._log_changed.set()
        if self._link is not None:
            self._link.wake()

    async def run(self) -> None:
        """Ship for ever."""
        while True:
            try:
                await self._ship_once()
            except DecnetError as error:
                if isinstance(error, Unreadable):
                    self._rotation.set_aside()
                await asyncio.sleep(self._failed(error))
            except OSError as cause:  # this log's disk; the others have their own shippers, which go on
                await asyncio.sleep(self._failed(unreadable(self._rotation.path, cause)))

    def close(self) -> None:
        """Let go of the log's files."""
        self._rotation.close()

    async def _ship_once(self) -> None:
        """Connect once there is a file to ship, and ship until the connection ends."""
        self._log_changed.clear()
        while self.next_file() is None:
            await self._log_changed.wait()
            self._log_changed.clear()
        link = await self._dial(self)
        self._link = link
        try:
            await link.ship()
        finally:
            self._link = None
            link.close()

    def _failed(self, error: DecnetError) -> float:
        """Take note of why there is no connection; return how long to wait, in seconds."""
        pause_secs = self._backoff.failed()
        state = self._state
        state.connected, state.connected_since = False, ""
        state.failures += 1
        state.refused = error.reason if isinstance(error, Refused) else ""
        state.last_error = error.message
        self._writer.changed()
        log.warning(
            "connection.failed",
            path=state.path,
            reason=error.message,
            advice=error.advice,
            retry_in_secs=round(pause_secs, 2),
        )
        return pause_secs

    def next_file(self) -> LogFile | None:
        """Return the oldest file that the master is not known to have whole."""
        file = self._rotation.next_file()
        self._state.gaps, self._state.lost_bytes = self._rotation.gaps, self._rotation.lost_bytes
        return file

    def is_final(self, file: LogFile) -> bool:
        """Tell whether the file grows no more."""
        return self._rotation.is_final(file)

    def finish(self, file: LogFile) -> None:
        """Take note that the master has all lines of a final file."""
        self._rotation.finish(file)
        self._writer.state.acked.pop(file.generation, None)
        self._writer.changed()

    def replaced(self, file: LogFile) -> None:
        """Take note that a file's bytes are other ones now."""
        self._rotation.replaced(file)

    def shortened(self, file: LogFile, offset: int) -> bool:
        """Take note that a file does not hold the offset at which the master wants it; tell whether it goes on."""
        return self._rotation.shortened(file, offset)

    def resumed(self, file: LogFile, offset: int) -> None:
        """Take note of where a file's stream goes on."""
        stream, state, acked = file.generation, self._state, self._writer.state.acked
        log.info("stream.resumed", path=str(file.path), stream=stream, offset=offset)
        before = max(self._acked_before.pop(stream, 0), acked.get(stream, 0))
        if offset < before:
            log.error("stream.went_back", stream=stream, offset=offset, acked_before=before)
        self._rotation.placed(file)
        self._writer.state.note_acked(stream, offset)
        state.generation, state.acked_offset = stream, offset
        if not state.connected:
            state.connections += 1
            state.connected, state.connected_since = True, timestamp()
        state.refused = state.last_error = ""
        self._writer.changed()

    def sent(self) -> None:
        """Take note that lines were sent."""
        self._state.last_line_at = timestamp()

    def acked(self, file: LogFile, offset: int) -> None:
        """Take note of what the master has."""
        state = self._state
        state.shipped_bytes += offset - state.acked_offset
        state.acked_offset = offset
        state.last_ack_at = timestamp()
        self._writer.state.note_acked(file.generation, offset)
        self._backoff.progressed()
        self._writer.changed()

    def cut(self) -> None:
        """Count a line that was cut."""
        self._state.cut_lines += 1
        self._writer.changed()

    def skipped(self) -> None:
        """Count a line that could not be shipped."""
        self._state.skipped_lines += 1
        self._writer.changed()
