"""From "a file was closed after writing" to a content in quarantine and an event that says who wrote it.

On the loop: who wrote (before the process is forgotten), where, and whether it is an attacker's at all. On one worker
thread: reading, hashing, storing, because a disk is slow. Between them a bounded queue of open files; one that finds
no room is counted and told as evidence.dropped.

A rename moves no content, so it needs no capture of its own; but the final name is what the attacker will run. The
descriptor of each captured file is kept for a while, and when its file is found under another name the capture is
told again with that name (same hash). A name taken and dropped between two looks is not seen.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import structlog

from decnet_agent.evidence.sender import evidence_dropped
from decnet_agent.tap import rooted
from decnet_agent.tap.attribution import Process, writer
from decnet_agent.tap.fanotify import Fanotify, Written, own_mounts
from decnet_agent.tap.observer import Emit, Observer, Watched
from decnet_agent.tap.quarantine import Kept, Quarantine
from decnet_core.errors import DecnetError
from decnet_core.events import Event, EventType

MAX_PENDING = 256
"""Open files that wait for the worker; the process may have 1024 descriptors by default."""
MAX_FOLLOWED = 128
FOLLOW_SECS = 600.0
"""How long a captured file's name is watched; a file that large or that old is let go, so that its space is freed."""
FOLLOW_FILE_BYTES = 8 << 20
LOOK_SECS = 1.0
FINISH_SECS = 3.0
"""How long files that were written just before the end may take; systemd gives us more, an operator's patience less."""
MAX_PATH = 4096

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Capture:
    """One written file, held open, with the event that it becomes once its content is kept."""

    fd: int
    draft: Event
    process: Process


@dataclass(slots=True)
class _Followed:
    capture: _Capture
    path: str
    until: float


class Captures:
    """Watches the filesystems of deckies.

    Raises:
        Unavailable: fanotify cannot be used.
    """

    def __init__(self, quarantine: Quarantine, observer: Observer, emit: Emit) -> None:
        self._fanotify = Fanotify()
        self._quarantine, self._observer, self._emit = quarantine, observer, emit
        self._mounts: dict[int, Watched] = {}
        self._pending: asyncio.Queue[_Capture] = asyncio.Queue(MAX_PENDING)
        self._in_hand: _Capture | None = None
        self._followed: OrderedDict[tuple[int, int], _Followed] = OrderedDict()
        self._dropped: dict[str, int] = {}

    @property
    def fd(self) -> int:
        """What to wait on."""
        return self._fanotify.fd

    def watch(self, decky: Watched) -> None:
        """Watch a decky's own filesystems.

        Raises:
            DecnetError: its root cannot be watched.
        """
        try:
            mountinfo = Path(f"/proc/{decky.pid1}/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            mountinfo = ""
        for mount in own_mounts(mountinfo):
            directory = rooted.open_directory(decky.pid1, mount.path)
            try:
                # Between the reading of the list and the opening nothing else may have come to this place.
                if os.fstat(directory).st_dev == mount.device:
                    self._fanotify.watch(directory)
                    self._mounts[mount.device] = decky
            finally:
                os.close(directory)

    def forget(self, namespace: int) -> None:
        """Let go of a decky; the marks go with its filesystems, which we keep no longer."""
        for device in [device for device, decky in self._mounts.items() if decky.namespace == namespace]:
            del self._mounts[device]
            for key in [key for key in self._followed if key[0] == device]:
                os.close(self._followed.pop(key).capture.fd)

    def read(self, drain_records: Callable[[], None]) -> None:
        """Take what fanotify has now.

        Args:
            drain_records: called before each batch is attributed: a file's writer was forked before it wrote, so its
                record is in the ring by then.
        """
        batch = list(self._fanotify.read())
        if batch:
            drain_records()
        for written in batch:
            self._take(written)

    async def run(self) -> NoReturn:
        """Keep what was taken, until cancelled."""
        while True:
            self._in_hand = capture = await self._pending.get()
            try:
                kept = await asyncio.to_thread(self._quarantine.keep, capture.fd, _about(capture.draft))
            except DecnetError as cause:
                self._failed(capture, cause)
            else:
                self._told(capture, kept)
            self._in_hand = None

    async def finish(self, drain_records: Callable[[], None]) -> None:
        """Keep what the kernel has told until now, after `run` was cancelled; what takes too long is counted."""
        loop = asyncio.get_running_loop()
        self.read(drain_records)
        await loop.shutdown_default_executor()  # `run`'s thread may still read the file in hand
        until = loop.time() + FINISH_SECS
        waiting = [self._in_hand] if self._in_hand is not None else []
        self._in_hand = None
        while not self._pending.empty():
            waiting.append(self._pending.get_nowait())
        for capture in waiting:
            if loop.time() > until:
                os.close(capture.fd)
                self._drop("ended")
                continue
            try:
                self._told(capture, self._quarantine.keep(capture.fd, _about(capture.draft)))
            except DecnetError as cause:
                self._failed(capture, cause)
        self._tell_drops()

    async def follow(self) -> NoReturn:
        """Look for new names of captured files, and tell of drops, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECS)
            now = asyncio.get_running_loop().time()
            for key, followed in list(self._followed.items()):
                path = _path(followed.capture.fd)
                if path is None or now > followed.until:
                    os.close(self._followed.pop(key).capture.fd)
                elif path != followed.path:
                    followed.path = path
                    self._observer.named(followed.capture.process, path)
                    draft = followed.capture.draft
                    self._emit(replace(draft, at=datetime.now(UTC), fields={**draft.fields, "path": path}))
            self._tell_drops()

    def close(self) -> None:
        """Drop all marks and files."""
        self._fanotify.close()
        while not self._pending.empty():
            os.close(self._pending.get_nowait().fd)
        for followed in self._followed.values():
            os.close(followed.capture.fd)
        self._followed.clear()

    def _take(self, written: Written) -> None:
        if written.fd < 0:
            self._drop("file-queue-overflow")
            return
        capture = self._capture(written)
        if capture is None:
            os.close(written.fd)
            return
        try:
            self._pending.put_nowait(capture)
        except asyncio.QueueFull:
            os.close(written.fd)
            self._drop("file-queue-full")

    def _capture(self, written: Written) -> _Capture | None:
        status = os.fstat(written.fd)
        decky = self._mounts.get(status.st_dev)
        if decky is None or not stat.S_ISREG(status.st_mode):
            return None
        path = _path(written.fd)
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
        return _Capture(written.fd, draft, process)

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
        self._follow(replace(capture, draft=event), kept)

    def _follow(self, capture: _Capture, kept: Kept) -> None:
        status = os.fstat(capture.fd)
        key = status.st_dev, status.st_ino
        older = self._followed.pop(key, None)
        if older is not None:
            os.close(older.capture.fd)
        if status.st_dev not in self._mounts or kept.size_bytes > FOLLOW_FILE_BYTES:
            os.close(capture.fd)
            return
        until = asyncio.get_running_loop().time() + FOLLOW_SECS
        self._followed[key] = _Followed(capture, capture.draft.fields["path"], until)
        while len(self._followed) > MAX_FOLLOWED:
            os.close(self._followed.popitem(last=False)[1].capture.fd)

    def _failed(self, capture: _Capture, cause: DecnetError) -> None:
        log.warning("tap.quarantine_failed", reason=cause.message)
        os.close(capture.fd)
        self._drop("quarantine-failed")

    def _tell_drops(self) -> None:
        for reason, count in self._dropped.items():
            log.warning("evidence.dropped", count=count, reason=reason)
            self._emit(evidence_dropped(count, reason, datetime.now(UTC)))
        self._dropped.clear()

    def _drop(self, reason: str) -> None:
        self._dropped[reason] = self._dropped.get(reason, 0) + 1


def _path(fd: int) -> str | None:
    """Tell an open file's present path as its decky sees it, or None when it has no name any more.

    The kernel names a file of a mount that is not in our own tree from the root of the tree that it is in.
    """
    if os.fstat(fd).st_nlink == 0:
        return None
    return os.fsencode(Path(f"/proc/self/fd/{fd}").readlink()).decode("utf-8", "backslashreplace")[:MAX_PATH]


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
