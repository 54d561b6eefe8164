"""From "a file was closed after writing" to a content in quarantine and an event that says who wrote it.

On the loop: who wrote (before the process is forgotten), where, and whether it is an attacker's at all. On one worker
thread: reading, hashing, storing, because a disk is slow. Between them a bounded number of open files; while there is
no room, files wait in the kernel's queue, and one that finds no room there is counted and told as evidence.dropped.

Who is killed in the middle of that loses nothing (`file_queue`): an event is done when the tap's memory holds what was
made of it. A file that an earlier tap had finished, but had no time to strike off, is recognised by `captured`. What
happens to a captured file's name is `following`'s.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import structlog

from decnet_agent.evidence.sender import evidence_dropped
from decnet_agent.tap import rooted
from decnet_agent.tap.attribution import Process, writer
from decnet_agent.tap.fanotify import READ_EVENTS, own_mounts
from decnet_agent.tap.file_queue import FileQueue, Key, State, Taken
from decnet_agent.tap.following import Following, path_of
from decnet_agent.tap.holdings import Holdings
from decnet_agent.tap.observer import Emit, Observer, Watched
from decnet_agent.tap.quarantine import Kept, Quarantine
from decnet_agent.tap.remembered import NUMBERS, PLAIN, Remembered
from decnet_core.errors import DecnetError
from decnet_core.events import Event, EventType

MAX_PENDING = 256
"""Open files that wait for the worker; beyond that events wait in the kernel."""
LOOK_SECS = 1.0
FINISH_SECS = 3.0
"""How long files that were written just before the end may take; systemd gives us more, an operator's patience less."""
MAX_CAPTURED = 32_768
"""Captures that are remembered: twice what the kernel's queue holds, all of which a tap that takes over meets again."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Capture:
    """One written file, held open, with the event that it becomes once its content is kept."""

    fd: int
    draft: Event
    process: Process
    taken: Taken


class Captures:
    """Watches the filesystems of deckies.

    Args:
        holdings: where files that are followed outlive us.
        commit: makes all that was emitted and remembered safe.
        drain_records: takes in the kernel's records so far. A file's writer was forked before it wrote, so its record
            is in the ring by then.

    Attributes:
        tables: all that a later tap must know to go on.
        caught_up: set when all is taken in that waited while no tap ran.
    """

    def __init__(
        self,
        queue: FileQueue,
        quarantine: Quarantine,
        observer: Observer,
        emit: Emit,
        *,
        holdings: Holdings,
        commit: Callable[[], None],
        drain_records: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._quarantine, self._observer, self._emit = quarantine, observer, emit
        self._commit, self._drain_records = commit, drain_records
        self._deckies: dict[int, Watched] = {}
        self._pending: asyncio.Queue[_Capture] = asyncio.Queue()
        self._in_hand: _Capture | None = None
        self._following = Following(holdings, observer, emit)
        self._mounts: Remembered[int, int] = Remembered("mounts", PLAIN, PLAIN)
        self._dropped: Remembered[str, int] = Remembered("dropped", PLAIN, PLAIN)
        self._captured: Remembered[Key, State] = Remembered("captured", NUMBERS, NUMBERS, MAX_CAPTURED)
        self.caught_up = asyncio.Event()
        self._recovered = False
        self.tables = (self._mounts, self._dropped, self._captured, self._following.table)

    def restored(self, deckies: Iterable[Watched]) -> None:
        """Go on from what an earlier tap knew of these deckies."""
        for decky in deckies:
            self._deckies[decky.namespace] = decky
        self._following.restored()

    def watch(self, decky: Watched) -> None:
        """Watch a decky's own filesystems.

        Raises:
            DecnetError: its root cannot be watched.
        """
        self._deckies[decky.namespace] = decky
        try:
            mountinfo = Path(f"/proc/{decky.pid1}/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            mountinfo = ""
        for mount in own_mounts(mountinfo):
            directory = rooted.open_directory(decky.pid1, mount.path)
            try:
                # Between the reading of the list and the opening nothing else may have come to this place.
                if os.fstat(directory).st_dev == mount.device:
                    self._queue.watch(directory)
                    self._mounts.put(mount.device, decky.namespace)
            finally:
                os.close(directory)

    def forget(self, namespace: int) -> None:
        """Let go of a decky; the marks go with its filesystems, which we keep no longer."""
        self._deckies.pop(namespace, None)
        for device in [device for device, owner in self._mounts.items() if owner == namespace]:
            self._mounts.pop(device)
            self._following.forget(device)

    async def run(self) -> NoReturn:
        """Keep what an earlier tap left, then what is written, until cancelled."""
        await self._recover()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._queue.fd, self.take_in)
        try:
            while True:
                if not self.caught_up.is_set():
                    self.take_in()
                if self._pending.empty() and not self.caught_up.is_set():
                    await asyncio.sleep(0)
                    continue
                self._in_hand = capture = await self._pending.get()
                if self._pending.qsize() == MAX_PENDING - 1:
                    loop.add_reader(self._queue.fd, self.take_in)
                self._conclude(capture, await self._keep(capture))
                self._in_hand = None
        finally:
            loop.remove_reader(self._queue.fd)

    async def finish(self) -> None:
        """Keep what the kernel has told until now, after `run` was cancelled; what takes too long is counted."""
        loop = asyncio.get_running_loop()
        await loop.shutdown_default_executor()  # `run`'s thread may still read the file in hand
        until = loop.time() + FINISH_SECS
        waiting = [self._in_hand] if self._in_hand is not None else []
        self._in_hand = None
        while True:
            while not self._pending.empty():
                waiting.append(self._pending.get_nowait())
            for capture in waiting:
                self._conclude(capture, "ended" if loop.time() > until else self._kept(capture))
            waiting.clear()
            if loop.time() > until or not self.take_in():
                break
        self._tell_drops()
        self._commit()

    async def follow(self) -> NoReturn:
        """Look for new names of captured files, and tell of drops, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECS)
            self._following.look()
            self._tell_drops()
            self._commit()

    def close(self) -> None:
        """Drop all marks and files."""
        self._queue.close()
        while not self._pending.empty():
            os.close(self._pending.get_nowait().fd)
        self._following.close()

    def take_in(self) -> bool:
        """Take what the kernel has now, as far as there is room; tell whether that was anything."""
        room = MAX_PENDING - self._pending.qsize() if self._recovered else 0
        batch = list(self._queue.read(min(room, READ_EVENTS))) if room > 0 else []
        if batch:
            self._drain_records()
        elif room > 0:
            self._observer.behind_ns = 0
            self.caught_up.set()
        for taken in batch:
            capture = self._begin(taken)
            if capture is not None:
                self._pending.put_nowait(capture)
        self._commit()
        if self._pending.qsize() >= MAX_PENDING:
            asyncio.get_running_loop().remove_reader(self._queue.fd)
        return bool(batch)

    async def _recover(self) -> None:
        """Keep what an earlier tap had in hand."""
        self._drain_records()
        recovered = 0
        while (taken := self._queue.left()) is not None:
            capture = self._begin(taken)
            if capture is not None:
                self._in_hand = capture
                self._conclude(capture, await self._keep(capture))
                self._in_hand = None
                recovered += 1
        self._recovered = True
        if recovered:
            log.info("tap.files_recovered", count=recovered)

    def _begin(self, taken: Taken) -> _Capture | None:
        """Find out whose an event is; None if it is done already: nobody's, or told by an earlier tap."""
        if taken.key is None:
            self._drop("file-queue-overflow")
            self._queue.finish(taken)
            return None
        again = not self.caught_up.is_set() and self._captured.get(taken.key) == taken.state
        capture = None if again else self._capture(taken)
        if capture is None:
            os.close(taken.written.fd)
            self._queue.finish(taken)
        return capture

    async def _keep(self, capture: _Capture) -> Kept | str:
        return await asyncio.to_thread(self._kept, capture)

    def _kept(self, capture: _Capture) -> Kept | str:
        try:
            return self._quarantine.keep(capture.fd, _about(capture.draft))
        except DecnetError as cause:
            log.warning("tap.quarantine_failed", reason=cause.message)
            return "quarantine-failed"

    def _conclude(self, capture: _Capture, kept: Kept | str) -> None:
        """Tell what became of a file, or for which reason nothing did; make it safe, and only then strike it off."""
        if isinstance(kept, str):
            os.close(capture.fd)
            self._drop(kept)
        else:
            self._told(capture, kept)
        if capture.taken.key is not None:
            self._captured.put(capture.taken.key, capture.taken.state)
        self._commit()
        self._queue.finish(capture.taken)

    def _capture(self, taken: Taken) -> _Capture | None:
        written = taken.written
        status = os.fstat(written.fd)
        decky = self._deckies.get(self._mounts.get(status.st_dev) or 0)
        if decky is None or not stat.S_ISREG(status.st_mode):
            return None
        path = path_of(written.fd)
        process = self._observer.writer(written.pid, path or "")
        if process is None:
            return None
        fields = {
            "path": path or "(deleted)",
            "mode": f"{stat.S_IMODE(status.st_mode):04o}",
            "uid": str(status.st_uid),
            "writer": writer(process),
        }
        user = self._observer.user_of(process)
        if user:
            fields["user"] = user
        if process.starting:
            fields["startup"] = "true"
        draft = self._observer.event(decky, process, EventType.FILE_CAPTURED, fields, datetime.now(UTC))
        self._observer.named(process, path or "")
        return _Capture(written.fd, draft, process, taken)

    def _told(self, capture: _Capture, kept: Kept) -> None:
        fields = {**capture.draft.fields, "sha256": kept.sha256, "size_bytes": str(kept.size_bytes)}
        if kept.stored_as is not None:
            fields["stored_as"] = kept.stored_as
        else:
            self._drop("quarantine-full")
        if kept.truncated:
            fields["truncated"] = "true"
        event = replace(capture.draft, fields=fields)
        self._emit(event)
        if capture.taken.key is not None and capture.taken.key[0] in self._mounts:
            self._following.follow(capture.fd, event, capture.process)
        else:
            os.close(capture.fd)

    def _tell_drops(self) -> None:
        for reason, count in self._dropped.items():
            log.warning("evidence.dropped", count=count, reason=reason)
            self._emit(evidence_dropped(count, reason, datetime.now(UTC)))
            self._dropped.pop(reason)

    def _drop(self, reason: str) -> None:
        self._dropped.put(reason, (self._dropped.get(reason) or 0) + 1)


def _about(draft: Event) -> dict[str, object]:
    """Tell what stands beside a content that is new."""
    return {
        "first_seen_at": draft.at.isoformat(),
        "decky": draft.decky,
        "session": draft.session,
        "src_ip": draft.src_ip,
        "src_port": draft.src_port,
        **draft.fields,
    }
