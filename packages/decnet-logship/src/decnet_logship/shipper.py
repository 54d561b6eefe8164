"""Keep one connection to the master, for ever, and know which file comes next.

After a failure the pause is drawn evenly from zero to a bound that doubles from `FIRST_DELAY_SECS` to the configured
longest (full jitter): a thousand workers whose master comes back do not come back at once. A connection that got
something acknowledged starts the doubling anew.

The identity is read again for each connection, so a renewed certificate is used without a restart.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path

import structlog

from decnet_core.endpoints import Endpoint
from decnet_core.errors import DecnetError
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import client_context
from decnet_core.shipping.control import ALPN
from decnet_core.shipping.sender import Limits
from decnet_logship.connection import Connection
from decnet_logship.settings import LogshipSettings
from decnet_logship.state import State, acked_before
from decnet_logship.tail import Foreign, LogFile, rotated_files

FIRST_DELAY_SECS = 0.2
STATE_SECS = 1.0

log = structlog.get_logger()


class Shipper:
    """Ships the log; `run` and `write_state` are its tasks."""

    def __init__(self, settings: LogshipSettings, endpoint: Endpoint) -> None:
        self._settings = settings
        self._endpoint = endpoint
        self._path = settings.event_log_path
        self._acked_before = acked_before(settings.state_file)
        self._state = State(master=str(endpoint))
        self._state_changed = asyncio.Event()
        self._state_fault: int | None = None  # errno that was reported
        self._finished: set[str] = set()
        self._ignored: set[Path] = set()
        self._connection: Connection | None = None
        self._log_changed = asyncio.Event()
        self._delay_secs = FIRST_DELAY_SECS

    def wake(self) -> None:
        """Say that the log may have changed."""
        self._log_changed.set()
        if self._connection is not None:
            self._connection.wake()

    async def run(self) -> None:
        """Ship for ever."""
        while True:
            try:
                await self._ship_once()
            except DecnetError as error:
                await asyncio.sleep(self._failed(error))

    def _failed(self, error: DecnetError) -> float:
        """Take note of why there is no connection; return how long to wait, in seconds."""
        pause_secs = random.uniform(0, self._delay_secs)  # noqa: S311 -- spreads load, hides nothing
        self._delay_secs = min(self._delay_secs * 2, self._settings.reconnect_max_secs)
        self._state.connected = False
        self._state.failures += 1
        self._state.last_error = error.message
        self._state_changed.set()
        log.warning("connection.failed", reason=error.message, advice=error.advice, retry_in_secs=round(pause_secs, 2))
        return pause_secs

    async def write_state(self) -> None:
        """Keep the hint file written, for ever."""
        try:
            while True:
                self._state_changed.clear()
                await asyncio.to_thread(self._write_state)
                await asyncio.sleep(STATE_SECS)
                await self._state_changed.wait()
        finally:
            self._state.connected = False
            self._write_state()

    async def _ship_once(self) -> None:
        """Connect once there is a file to ship, and ship until the connection ends."""
        while (first := self.next_file("")) is None:
            self._log_changed.clear()
            await self._log_changed.wait()
        first.close()
        settings = self._settings
        identity = KeyStore(settings.identities_directory).load(Role.LOGSHIP, datetime.now(UTC))
        context = client_context(identity.files, identity.files.ca, (ALPN,))
        limits = Limits(ack_secs=settings.ack_timeout_secs, window_bytes=settings.window_bytes)
        connection = await Connection.open(self._endpoint, context, settings.connect_timeout_secs, limits, self)
        self._connection = connection
        try:
            await connection.ship()
        finally:
            self._connection = None
            connection.close()

    def next_file(self, after: str) -> LogFile | None:
        """Open the oldest file that the master is not known to have whole; the caller closes it.

        Raises:
            Foreign: the log itself is not ours.
            Unavailable: it cannot be read.
        """
        while True:
            rotated = rotated_files(self._path)
            for path in rotated:
                file = self._open_rotated(path)
                if file is not None:
                    if self._is_wanted(file, after):
                        return file
                    file.close()
            file = LogFile.open(self._path)
            if file is None:
                return None
            if rotated == rotated_files(self._path):  # else this one is younger than one just rotated
                if self._is_wanted(file, after):
                    return file
                file.close()
                return None
            file.close()

    def is_final(self, file: LogFile) -> bool:
        """Tell whether the file grows no more."""
        return file.is_final(self._path)

    def finish(self, file: LogFile, acked: int) -> None:
        """Take note that the master has all lines of a final file, and remove it."""
        self._finished.add(file.generation)
        log.info("stream.finished", stream=file.generation, size_bytes=file.size_bytes())
        rotated = self._path.with_name(f"{self._path.name}.{file.generation}")
        if file.size_bytes() > acked:
            log.error("file.half_line", path=str(rotated), left_bytes=file.size_bytes() - acked)
            return
        if not file.is_at(rotated):
            return
        try:
            rotated.unlink()
        except OSError as cause:
            log.warning("file.kept", path=str(rotated), reason=cause.strerror)
            return
        log.info("file.removed", path=str(rotated))
        self._state.acked.pop(file.generation, None)

    def resumed(self, stream: str, offset: int) -> None:
        """Take note of where a stream goes on."""
        log.info("stream.resumed", stream=stream, offset=offset)
        before = max(self._acked_before.pop(stream, 0), self._state.acked.get(stream, 0))
        if offset < before:
            log.error("stream.went_back", stream=stream, offset=offset, acked_before=before)
        self._state.acked[stream] = offset
        self._state.connected = True
        self._state.connections += 1
        self._state.last_error = ""
        self._state_changed.set()

    def acked(self, stream: str, offset: int) -> None:
        """Take note of what the master has."""
        self._state.shipped_bytes += offset - self._state.acked[stream]
        self._state.acked[stream] = offset
        self._delay_secs = FIRST_DELAY_SECS
        self._state_changed.set()

    def skipped(self) -> None:
        """Count a line that could not be shipped."""
        self._state.skipped_lines += 1
        self._state_changed.set()

    def _write_state(self) -> None:
        self._state.updated_at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            self._state.write(self._settings.state_file)
            self._state_fault = None
        except OSError as cause:
            if self._state_fault != cause.errno:
                log.warning("state.unwritable", path=str(self._settings.state_file), reason=cause.strerror)
            self._state_fault = cause.errno

    def _open_rotated(self, path: Path) -> LogFile | None:
        if path in self._ignored:
            return None
        try:
            return LogFile.open(path)
        except Foreign as error:
            self._ignored.add(path)
            log.warning("file.ignored", path=str(path), reason=error.message)
            return None

    def _is_wanted(self, file: LogFile, after: str) -> bool:
        return file.generation != after and file.generation not in self._finished
