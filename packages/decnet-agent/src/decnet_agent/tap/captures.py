"""From "a file was closed after writing" to a content in quarantine and an event that says who wrote it.

On the loop: who wrote (before the process is forgotten), where, and whether it is an attacker's at all. On one worker
thread: reading, hashing, storing, because a disk is slow. Between them a bounded number of open files; while there is
no room, files wait in the kernel's queue, and one that finds no room there is counted and told as evidence.dropped.

Whose a file is: `intake` gives it to us when all is known that the kernel told of processes before it. A process of a
session makes it its visitor's; a process that is known and in no session is the decky's own machinery, and its files
are nobody's. A writer that is not known at all (its record found no room, or it ended so long ago that it is forgotten)
hides nothing: the file is told of as that of "(unknown)", without a session. Not so what comes from outside of the
decky: the engine and `docker cp` write through mounts of their own, and so do its short-lived helpers; and a living
process of the host's is no intruder's.

Who is killed in the middle of that loses nothing (`file_queue`): an event is done when the tap's memory holds what was
made of it. A file that an earlier tap had finished, but had no time to strike off, is recognised by `captured`: it was
not changed since, or has the same content still. What happens to a captured file's name is `following`'s, and what to a
decky that ends while files of its are on their way, `filesystems`'.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NoReturn

import structlog

from decnet_agent.evidence.sender import evidence_dropped
from decnet_agent.tap import procs
from decnet_agent.tap.attribution import Process, writer
from decnet_agent.tap.file_queue import FileQueue, Key, State, Taken
from decnet_agent.tap.filesystems import Filesystems
from decnet_agent.tap.following import Following, path_of
from decnet_agent.tap.holdings import Holdings
from decnet_agent.tap.intake import LOOK_AGAIN_SECS, Intake, Past, reached
from decnet_agent.tap.observer import Emit, Observer, Watched
from decnet_agent.tap.quarantine import Kept, Quarantine
from decnet_agent.tap.remembered import NUMBERS, PLAIN, Codec, Remembered
from decnet_core.errors import DecnetError
from decnet_core.events import Event, EventType

MAX_PENDING = 256
"""Open files that wait for the worker; beyond that events wait in the kernel."""
LOOK_SECS = 1.0
FINISH_SECS = 6.0
"""How long files that were written just before the end may take; a supervisor gives us ten seconds, systemd more."""
MAX_CAPTURED = 32_768
"""Captures that are remembered: twice what the kernel's queue holds, all of which a tap that takes over meets again."""

log = structlog.get_logger()


UNKNOWN = "(unknown)"
"""Stands for a writer of whom nothing is known."""


@dataclass(frozen=True, slots=True)
class _Captured:
    """What was told of a file: its state then, and its content; no content where it was counted as dropped."""

    state: State
    sha256: str


_CAPTURED: Codec[_Captured] = Codec(
    lambda told: [*told.state, told.sha256], lambda data: _Captured((int(data[0]), int(data[1])), str(data[2]))
)


@dataclass(frozen=True, slots=True)
class _Capture:
    """One written file, held open, with the event that it becomes once its content is kept."""

    fd: int
    draft: Event
    process: Process | None
    taken: Taken
    told_sha256: str | None
    """The content that an earlier tap may have told of this very event."""


class Captures:
    """Watches the filesystems of deckies.

    Args:
        holdings: where files that are followed outlive us.
        past: knows how far the kernel's records are taken in.
        commit: makes all that was emitted and remembered safe.

    Attributes:
        tables: all that a later tap must know to go on.
        caught_up: whether all is taken in that waited while no tap ran.
    """

    def __init__(
        self,
        queue: FileQueue,
        quarantine: Quarantine,
        observer: Observer,
        emit: Emit,
        *,
        holdings: Holdings,
        past: Past,
        commit: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._quarantine, self._observer, self._emit = quarantine, observer, emit
        self._past, self._commit = past, commit
        self._filesystems = Filesystems(queue)
        self._intake = Intake(queue, past, self._begin_all, room=self._room, emptied=self._emptied)
        self._pending: asyncio.Queue[_Capture] = asyncio.Queue()
        self._in_hand: _Capture | None = None
        self._following = Following(holdings, observer, emit)
        self._dropped: Remembered[str, int] = Remembered("dropped", PLAIN, PLAIN)
        self._captured: Remembered[Key, _Captured] = Remembered("captured", NUMBERS, _CAPTURED, MAX_CAPTURED)
        self.caught_up = False
        self._recovered = False
        self._begun = 0
        self.tables = (self._filesystems.devices, self._dropped, self._captured, self._following.table)

    def restored(self, deckies: Iterable[Watched]) -> None:
        """Go on from what an earlier tap knew of these deckies."""
        self._filesystems.restored(deckies)
        self._following.restored()

    def watch(self, decky: Watched) -> None:
        """Watch a decky's own filesystems.

        Raises:
            DecnetError: not all of them can be watched (now).
        """
        self._filesystems.watch(decky)

    def forget(self, decky: Watched, processes: Mapping[int, Process]) -> None:
        """Let go of a decky that had these processes; its marks go with its filesystems.

        What it wrote before and is still on its way is kept as if it were there.
        """
        waiting = self._queue.waiting + self._intake.waiting
        for device in self._filesystems.leave(decky, processes, self._begun + waiting if self.caught_up else None):
            self._following.forget(device)

    async def run(self) -> NoReturn:
        """Keep what an earlier tap left, then what is written, until cancelled."""
        await self._recover()
        try:
            while not self.caught_up:
                self._intake.take()
                if not self._pending.empty():
                    await self._keep_next()
                else:
                    await asyncio.sleep(LOOK_AGAIN_SECS if self._intake.waiting else 0)
            while True:
                if self._room() > 0:
                    self._intake.listen()
                await self._keep_next()
        finally:
            self._intake.stop()

    async def finish(self) -> None:
        """Keep what the kernel has told until now, after `run` was cancelled.

        For what takes too long evidence.dropped is told, but it is not struck off: if our supervisor lives, the next
        tap may still keep it.
        """
        loop = asyncio.get_running_loop()
        await loop.shutdown_default_executor()  # `run`'s thread may still read the file in hand
        until = loop.time() + FINISH_SECS
        if self._in_hand is not None:
            self._conclude(self._in_hand, self._kept(self._in_hand))
            self._in_hand = None
        while loop.time() < until:
            if not self._pending.empty():
                capture = self._pending.get_nowait()
                self._conclude(capture, self._kept(capture))
            elif self._intake.waiting:
                await asyncio.sleep(LOOK_AGAIN_SECS)
                self._intake.take()
            elif not self._take_left() and not self._intake.take():
                break
        for _ in range(self._pending.qsize() + self._intake.waiting + self._queue.waiting):
            self._drop("ended")
        self._tell_drops()
        self._commit()

    async def follow(self) -> NoReturn:
        """Look for new names of captured files, and tell of drops, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECS)
            self._following.look()
            self._tell_drops()
            self._filesystems.left(self._begun)
            self._commit()

    def close(self) -> None:
        """Drop all marks and files."""
        self._queue.close()
        while not self._pending.empty():
            os.close(self._pending.get_nowait().fd)
        self._following.close()

    async def _recover(self) -> None:
        """Keep what an earlier tap had in hand."""
        await reached(self._past)
        recovered = 0
        while self._take_left():
            while not self._pending.empty():
                await self._keep_next()
                recovered += 1
        if recovered:
            log.info("tap.files_recovered", count=recovered)

    def _take_left(self) -> bool:
        """Take one event that an earlier tap had in hand; tell whether there was one."""
        taken = None if self._recovered else self._queue.left()
        if taken is None:
            self._recovered = True
            return False
        self._begin_all([taken])
        return True

    def _room(self) -> int:
        return MAX_PENDING - self._pending.qsize() if self._recovered else 0

    def _emptied(self) -> None:
        self._observer.behind_ns = 0
        self.caught_up = True
        self._filesystems.left(None)

    def _begin_all(self, batch: list[Taken]) -> None:
        for taken in batch:
            self._begun += 1
            self._begin(taken)
        self._commit()

    def _begin(self, taken: Taken) -> None:
        """Find out whose an event is; what is done already, because it is nobody's or was told, goes no further."""
        if taken.key is None:
            self._drop(taken.written.lost)
            self._queue.finish(taken)
            return
        told = None if self.caught_up else self._captured.get(taken.key)
        capture = None
        if told is None or told.state != taken.state:
            try:
                capture = self._capture(taken, None if told is None else told.sha256)
            except (OSError, DecnetError) as cause:
                log.warning("tap.file_unreadable", reason=str(cause))
                self._drop("file-unreadable")
                self._captured.put(taken.key, _Captured(taken.state, ""))
        if capture is None:
            os.close(taken.written.fd)
            self._queue.finish(taken)
        else:
            self._pending.put_nowait(capture)

    async def _keep_next(self) -> None:
        self._in_hand = capture = await self._pending.get()
        self._conclude(capture, await asyncio.to_thread(self._kept, capture))
        self._in_hand = None

    def _kept(self, capture: _Capture) -> Kept | str:
        try:
            return self._quarantine.keep(capture.fd, _about(capture.draft))
        except DecnetError as cause:
            log.warning("tap.quarantine_failed", reason=cause.message)
            return "quarantine-failed"

    def _conclude(self, capture: _Capture, kept: Kept | str) -> None:
        """Tell what became of a file, or for which reason nothing did; make it safe, and only then strike it off."""
        sha256 = ""
        if isinstance(kept, str):
            self._drop(kept)
        else:
            sha256 = kept.sha256
            if sha256 != capture.told_sha256:
                self._told(capture, kept)
        if capture.taken.key is not None:
            self._captured.put(capture.taken.key, _Captured(capture.taken.state, sha256))
        self._commit()
        self._queue.finish(capture.taken)
        os.close(capture.fd)

    def _capture(self, taken: Taken, told_sha256: str | None) -> _Capture | None:
        written = taken.written
        status = os.fstat(written.fd)
        decky = self._filesystems.owner(status.st_dev, written.fd)
        if decky is None or not stat.S_ISREG(status.st_mode):
            return None
        path = path_of(written.fd)
        process = self._writer(decky, written.pid)
        if process is None:
            if not self._is_from_within(decky, taken):
                return None
        elif not self._observer.is_a_visitors(process, path or ""):
            return None
        fields = {
            "path": path or "(deleted)",
            "mode": f"{stat.S_IMODE(status.st_mode):04o}",
            "uid": str(status.st_uid),
            "writer": UNKNOWN if process is None else writer(process),
        }
        if process is not None:
            fields |= self._observer.login_fields(process)
        if process is not None and process.starting:
            fields["startup"] = "true"
        draft = self._observer.event(decky, process, EventType.FILE_CAPTURED, fields, datetime.now(UTC))
        if process is not None and self._filesystems.processes_of(decky) is None:
            self._observer.named(process, path or "")
        return _Capture(written.fd, draft, process, taken, told_sha256)

    def _writer(self, decky: Watched, pid: int) -> Process | None:
        of_one_gone = self._filesystems.processes_of(decky)
        return self._observer.find(decky.namespace, pid) if of_one_gone is None else of_one_gone.get(pid)

    def _is_from_within(self, decky: Watched, taken: Taken) -> bool:
        """Tell whether an unknown writer may be a process in the decky."""
        is_host_s = procs.namespace_of(taken.written.pid) == procs.namespace_of(os.getpid())
        return not is_host_s and self._filesystems.is_within(decky, taken.written.fd)

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
        decky = None if capture.taken.key is None else self._filesystems.devices.get(capture.taken.key[0])
        if decky is not None and self._filesystems.processes_of(decky) is None:
            self._following.follow(capture.fd, event, capture.process)

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
        "service": draft.service,
        "session": draft.session,
        "src_ip": draft.src_ip,
        "src_port": draft.src_port,
        **draft.fields,
    }
