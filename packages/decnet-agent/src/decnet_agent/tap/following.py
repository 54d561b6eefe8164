"""Follow captured files to their final names: what an attacker will run is what he has moved it to.

A rename moves no content, so it needs no capture of its own. The descriptor of each captured file is kept for a while,
and when its file is found under another name the capture is told again with that name (same hash). A name taken and
dropped between two looks is not seen. Our supervisor holds these descriptors too (`name.<device>.<inode>`), so that a
new name is found also by the next tap.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from decnet_agent.evidence.channel import event_from_json, event_to_json
from decnet_agent.tap.attribution import PROCESSES, Process
from decnet_agent.tap.holdings import Holdings
from decnet_agent.tap.observer import Emit, Observer
from decnet_agent.tap.remembered import NUMBERS, Codec, Remembered
from decnet_core.events import Event

MAX_FOLLOWED = 128
FOLLOW_SECS = 600.0
"""How long a captured file's name is watched; a file that large or that old is let go, so that its space is freed."""
FOLLOW_FILE_BYTES = 8 << 20
MAX_PATH = 4096
TOO_DEEP = "(deeper than a path can say)"
"""Stands for a path that the kernel cannot name."""

_Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Followed:
    """A captured file whose name is watched until a moment of the monotonic clock."""

    path: str
    until: float
    draft: Event
    process: Process | None


_FOLLOWED: Codec[_Followed] = Codec(
    lambda file: [
        file.path,
        file.until,
        event_to_json(file.draft),
        None if file.process is None else PROCESSES.write(file.process),
    ],
    lambda data: _Followed(
        str(data[0]),
        float(data[1]),
        event_from_json("", data[2]),
        None if data[3] is None else PROCESSES.read(data[3]),
    ),
)


class Following:
    """The files that are followed.

    Attributes:
        table: what a later tap must know to go on.
    """

    def __init__(self, holdings: Holdings, observer: Observer, emit: Emit) -> None:
        self._holdings, self._observer, self._emit = holdings, observer, emit
        self._open: dict[_Key, int] = {}
        self.table: Remembered[_Key, _Followed] = Remembered("followed", NUMBERS, _FOLLOWED)

    def restored(self) -> None:
        """Take over the descriptors of what an earlier tap followed."""
        held = self._holdings.names()
        for key in list(self.table):
            if _name(key) in held:
                self._open[key] = self._holdings.take(_name(key))
            else:
                self.table.pop(key)

    def follow(self, fd: int, draft: Event, process: Process | None) -> None:
        """Follow a file from now on.

        Args:
            fd: of the captured file; stays the caller's.
            draft: the event that told of it.
            process: who wrote it, if that is known.
        """
        status = os.fstat(fd)
        key = status.st_dev, status.st_ino
        self._let_go(key)
        if status.st_size > FOLLOW_FILE_BYTES:
            return
        try:
            # Opened anew: systemd takes a second name for the same open file (`file_queue` gave it one) for a
            # duplicate, keeps one of the two, and drops it with the first name that is let go.
            own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        self._open[key] = own
        self._holdings.keep(_name(key), own)
        self.table.put(key, _Followed(draft.fields["path"], time.monotonic() + FOLLOW_SECS, draft, process))
        while len(self.table) > MAX_FOLLOWED:
            self._let_go(next(iter(self.table)))

    def look(self) -> None:
        """Look for new names once."""
        for key, file in self.table.items():
            path = path_of(self._open[key])
            if path is None or time.monotonic() > file.until:
                self._let_go(key)
            elif path != file.path:
                self.table.put(key, replace(file, path=path))
                if file.process is not None:
                    self._observer.named(file.process, path)
                fields = {**file.draft.fields, "path": path}
                self._emit(replace(file.draft, at=datetime.now(UTC), fields=fields))

    def forget(self, device: int) -> None:
        """Let go of the files of a filesystem."""
        for key in [key for key in self.table if key[0] == device]:
            self._let_go(key)

    def close(self) -> None:
        """Close our descriptors."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _let_go(self, key: _Key) -> None:
        if key in self.table:
            self.table.pop(key)
            self._holdings.let_go(_name(key))
            os.close(self._open.pop(key))


def path_of(fd: int) -> str | None:
    """Tell an open file's present path as its decky sees it, or None when it has no name any more.

    The kernel names a file of a mount that is not in our own tree from the root of the tree that it is in. It has no
    name for what lies deeper than PATH_MAX, which anybody makes with a few relative steps: such a file is told of
    without its path.
    """
    if os.fstat(fd).st_nlink == 0:
        return None
    try:
        name = Path(f"/proc/self/fd/{fd}").readlink()
    except OSError as cause:
        if cause.errno != errno.ENAMETOOLONG:
            raise
        return TOO_DEEP
    return os.fsencode(name).decode("utf-8", "backslashreplace")[:MAX_PATH]


def _name(key: _Key) -> str:
    return f"name.{key[0]}.{key[1]}"
