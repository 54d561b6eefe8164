"""Terminals, from the kernel's ring to the recordings: what the tap needs to know of both.

Records of terminals come through a ring of their own, and whose process it is that holds a master is told through the
other one. So before records of terminals are taken in, all that the other ring held by then is; that is waited for as
`intake` does for files.

Where the kernel does not let itself be watched in this way, all else is watched and no terminal is recorded, which the
log and `decnet-agent doctor` say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import structlog

from decnet_agent.tap import programs
from decnet_agent.tap.holdings import Holdings
from decnet_agent.tap.intake import OVERDUE_SECS, Past
from decnet_agent.tap.memory import Progress
from decnet_agent.tap.observer import Emit, Observer, Watched
from decnet_agent.tap.quarantine import Quarantine
from decnet_agent.tap.recording_files import RecordingFiles
from decnet_agent.tap.recordings import SHOWN_BYTES, Recordings
from decnet_agent.tap.records import Records
from decnet_agent.tap.terminal_probes import TerminalProbes
from decnet_core.errors import DecnetError

LOOK_SECS = 1.0
"""Between two looks for terminals whose holders are gone."""

log = structlog.get_logger()


class Terminals:
    """Everything about terminals.

    Args:
        holdings: where descriptors outlive us.
        shared: the maps of `probes.KernelProbes`.
        continued: whether an earlier tap made those.
        folder: for recordings that are being written.
        past: the reading of the other ring.
        commit: makes all that was emitted and remembered safe.
        shown_bytes: of one terminal's output that are recorded.
    """

    def __init__(
        self,
        holdings: Holdings,
        shared: programs.Maps,
        quarantine: Quarantine,
        observer: Observer,
        emit: Emit,
        *,
        continued: bool,
        folder: Path,
        past: Past,
        commit: Callable[[], None],
        shown_bytes: int = SHOWN_BYTES,
    ) -> None:
        self.recordings = Recordings(
            RecordingFiles(folder), quarantine, observer, emit, commit=commit, shown_bytes=shown_bytes
        )
        self._probes: TerminalProbes | None = None
        self._records: Records | None = None
        try:
            self._probes = TerminalProbes(holdings, shared, continued=continued)
        except DecnetError as cause:
            log.warning("tap.terminals_unwatched", reason=cause.message)
        else:
            self._records = Records(_Behind(self._probes, past), self.recordings.take, commit)

    def take_over(self, progress: Progress) -> None:
        """Go on where an earlier tap was, as far as what it left fits together."""
        generation = "" if self._probes is None else self._probes.generation
        gapless = self._probes is not None and self._probes.taken_over and progress.screens == generation
        if gapless and self._probes is not None:
            self._probes.skip_to(progress.screens_position)
        progress.screens = generation
        self.recordings.restored(gapless=gapless)

    def start(self) -> None:
        """Read from now on whenever there is something."""
        if self._records is not None:
            self._records.start()

    def stop(self) -> None:
        """Take in what is there, and read no more."""
        if self._records is not None:
            self._records.stop()
            self._records.drain()

    def note(self, progress: Progress) -> None:
        """Say how far the records are dealt with, before that is made safe."""
        if self._probes is not None:
            progress.screens_position = self._probes.position

    def consume(self) -> None:
        """Free the room of what is safe."""
        if self._probes is not None:
            self._probes.consume()

    def forget(self, decky: Watched) -> None:
        """End the recordings of a decky that is gone."""
        self._drain()
        self.recordings.forget(decky)

    async def follow(self) -> NoReturn:
        """Look for terminals whose holders are gone, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECS)
            self.recordings.look(self._drain)

    def close(self) -> None:
        """Close our descriptors."""
        self.recordings.close()
        if self._probes is not None:
            self._probes.close()

    def _drain(self) -> None:
        if self._records is not None:
            self._records.drain()


class _Behind:
    """The terminals' ring, which gives nothing before the other ring's records of the same time are in."""

    def __init__(self, probes: TerminalProbes, past: Past) -> None:
        self._probes, self._past = probes, past
        self._overdue_at: float | None = None

    @property
    def fd(self) -> int:
        return self._probes.fd

    @property
    def position(self) -> int:
        return self._probes.position

    @property
    def end(self) -> int:
        return self._probes.end

    def read(self, limit: int) -> Iterator[bytes]:
        if not self._past.drain(self._past.end):
            now = time.monotonic()
            self._overdue_at = self._overdue_at or now + OVERDUE_SECS
            if now < self._overdue_at:
                return
            log.warning("tap.records_overdue", files=0)
        self._overdue_at = None
        yield from self._probes.read(limit)
