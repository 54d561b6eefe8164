"""Look at the files of one log: which there are, which generation each is, and which cannot be read.

A file that cannot be read (its mode, its disk) keeps nobody from the others: it is left out and told. What is missing
may then be that very file, so `may_hide` is asked before a generation is said to be lost.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from decnet_core.errors import RemoteProtocolError, Unavailable
from decnet_core.events import EventType
from decnet_core.shipping.control import is_stream
from decnet_core.syslog.rfc5424 import decode
from decnet_logship.generations import TELLING_BYTES, Generation, boot_id
from decnet_logship.tail import Foreign, LogFile, Unreadable, unreadable

MAX_FILES = 4096
"""Looked at beside one log; the youngest."""

_HEADER_BYTES = 4096
"""A `log.opened` line is about 300 bytes; one whose fields an operator chose may be longer."""

_COMPRESSED = frozenset({".gz", ".xz", ".bz2", ".zst", ".lz4", ".Z"})

Place = tuple[int, int]
"""Device and inode."""


@dataclass(slots=True)
class Found:
    """A file that was looked at."""

    path: Path
    is_live: bool
    stat: os.stat_result
    head: bytes
    same: str = ""  # the known generation that it is, by place and bytes
    copy_of: tuple[str, ...] = ()  # those whose bytes it holds
    cut_copy_of: tuple[str, ...] = ()  # those that it may be the shorter beginning of
    header: str = ""  # the generation in its first line, of our own event log
    grew: bool = False  # it is finished, and has grown since
    stream: str = ""  # what it was found to be

    @property
    def place(self) -> Place:
        """Where it lies."""
        return self.stat.st_dev, self.stat.st_ino


@dataclass(slots=True)
class Survey:
    """What was found.

    Attributes:
        files: those that could be looked at, oldest first, the log itself last; each with the generation that it is
            known to be.
        unread: the others, with why, and where known what stat(2) says of them.
        live_fault: why the log itself could not be looked at.
    """

    files: list[Found] = field(default_factory=list)
    unread: dict[Path, tuple[Unreadable, os.stat_result | None]] = field(default_factory=dict)
    live_fault: Foreign | Unreadable | None = None

    @property
    def live(self) -> Found | None:
        """The log itself."""
        return self.files[-1] if self.files and self.files[-1].is_live else None

    def may_hide(self, one: Generation) -> bool:
        """Tell whether a file that could not be looked at may be this generation, or a copy of it."""
        return any(
            there is None or one.lay_at(there) or there.st_mtime_ns >= one.mtime_ns for _, there in self.unread.values()
        )


def survey(
    path: Path, known: Mapping[str, Generation], done: Collection[str], moved: Mapping[str, Place], *, is_ours: bool
) -> Survey:
    """Look at the files of a log, and name those that are generations which are known, or say it themselves.

    Args:
        path: the log.
        known: what is remembered of it, by stream.
        done: streams of our own log that are finished, or were cut.
        moved: streams that were cut out of a file, with where that lies.
        is_ours: whether it is our own event log.

    Raises:
        Unavailable: the folder cannot be read.
    """
    found = Survey()
    for one in _beside(path, found):
        try:
            looked_at = _look(one, known, moved, is_live=False, is_ours=is_ours)
        except Unreadable as cause:
            found.unread[one] = cause, _lstat(one)
        except Foreign:  # it was another one a moment ago
            continue
        else:
            found.files += [looked_at] if looked_at is not None else []
    try:
        live = _look(path, known, moved, is_live=True, is_ours=is_ours)
    except (Foreign, Unreadable) as cause:
        found.live_fault = cause
        if isinstance(cause, Unreadable):
            found.unread[path] = cause, _lstat(path)
    else:
        found.files += [live] if live is not None else []
    names = _Names(known, done, moved)
    for file in found.files:
        names.by_place(file)
    for file in found.files:
        names.by_content(file)
    return found


def is_copy(found: Found, of: Found) -> bool:
    """Tell whether two files begin alike, and hold the same where the shorter one ends."""
    size_bytes = min(found.stat.st_size, of.stat.st_size)
    try:
        one, other = LogFile.open(found.path), LogFile.open(of.path)
        if one is None or other is None:
            return False
        with closing(one), closing(other):
            begins = min(len(one.head), len(other.head))
            return (
                begins >= TELLING_BYTES
                and one.head[:begins] == other.head[:begins]
                and one.digest_before(size_bytes) == other.digest_before(size_bytes)
            )
    except (Foreign, Unreadable, OSError):
        return False


def is_still(file: LogFile, found: Found) -> bool:
    """Tell whether a file that was opened is the one that was looked at, and was not truncated meanwhile."""
    now, before = file.stat(), found.stat
    is_there = (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino)
    return is_there and now.st_size >= before.st_size and file.head.startswith(found.head)


def _beside(path: Path, into: Survey) -> list[Path]:
    """List the files beside the log that may be of it, oldest first."""
    found: list[tuple[int, str]] = []
    try:
        with os.scandir(path.parent) as entries:
            for entry in entries:
                beside = entry.name.startswith((f"{path.name}.", f"{path.name}-"))
                if beside and Path(entry.name).suffix not in _COMPRESSED:
                    _add_entry(entry, found, into)
    except FileNotFoundError:
        return []
    except OSError as cause:
        raise Unavailable(
            f"Cannot read {path.parent}: {cause.strerror}", "Let the user who runs logship read it."
        ) from cause
    return [path.with_name(name) for _, name in sorted(found)[-MAX_FILES:]]


def _add_entry(entry: os.DirEntry[str], found: list[tuple[int, str]], into: Survey) -> None:
    try:
        if entry.is_file(follow_symlinks=False):
            found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    except FileNotFoundError:
        pass  # removed meanwhile; the others were not
    except OSError as cause:
        into.unread[Path(entry.path)] = unreadable(Path(entry.path), cause), None


def _look(
    path: Path, known: Mapping[str, Generation], moved: Mapping[str, Place], *, is_live: bool, is_ours: bool
) -> Found | None:
    """Look at one file; None when it is not there, or is not to be named yet.

    Raises:
        Foreign: it is no regular file.
        Unreadable: it cannot be read.
    """
    file = LogFile.open(path)
    if file is None:
        return None
    try:
        with closing(file):
            return _described(file, known, moved, is_live=is_live, is_ours=is_ours)
    except OSError as cause:
        raise unreadable(path, cause) from cause


def _described(
    file: LogFile, known: Mapping[str, Generation], moved: Mapping[str, Place], *, is_live: bool, is_ours: bool
) -> Found | None:
    found = Found(file.path, is_live, file.stat(), file.head)
    known = {stream: one for stream, one in known.items() if moved.get(stream) != found.place}
    for stream, one in known.items():
        if not found.same and one.is_file(file):
            found.same = stream
            found.grew = one.finished and not is_ours and _grew(file, one)
    found.copy_of = tuple(stream for stream, one in known.items() if one.is_copied_to(file))
    found.cut_copy_of = tuple(stream for stream, one in known.items() if one.is_cut_copy(file))
    if is_ours:
        line = os.pread(file.descriptor, _HEADER_BYTES, 0).partition(b"\n")
        if is_live and not line[1] and len(line[0]) < _HEADER_BYTES:
            return None  # its first line is not whole yet
        found.header = _generation(line[0]) if line[1] else ""
    return found


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


class _Names:
    """Gives files their generations; no two get the same."""

    def __init__(self, known: Mapping[str, Generation], done: Collection[str], moved: Collection[str]) -> None:
        self._known = known
        self._done = done
        self._moved = moved
        self._taken: set[str] = set()

    def by_place(self, found: Found) -> None:
        """Name what lies where it lay, with the bytes that it had."""
        self._take(found, found.same)

    def by_content(self, found: Found) -> None:
        """Name what was moved or copied, and what says itself which generation it is."""
        if found.stream:
            return
        if not found.is_live:
            for stream in found.copy_of:
                self._take(found, stream)
            for stream in found.cut_copy_of:
                if not self._known[stream].finished:
                    self._take(found, stream)
        if found.header and not self._was_cut(found):
            self._take(found, found.header)

    def _was_cut(self, found: Found) -> bool:
        """Tell whether a file of our own event log was cut while this machine ran, so that its name is used up."""
        if found.is_live and found.header in {*self._done, *self._moved}:
            return True
        known = self._known.get(found.header)
        return known is not None and known.boot_id == boot_id() and found.header not in found.copy_of

    def _take(self, found: Found, stream: str) -> None:
        if stream and not found.stream and stream not in self._taken:
            found.stream = stream
            self._taken.add(stream)


def _grew(file: LogFile, known: Generation) -> bool:
    """Tell whether lines were added to a file that ended with a whole one."""
    size_bytes = known.size_bytes
    return file.stat().st_size > size_bytes > 0 and os.pread(file.descriptor, 1, size_bytes - 1) == b"\n"


def _generation(line: bytes) -> str:
    """Read the generation that the first line of a file of our own event log holds; empty when it holds none."""
    try:
        message = decode(line)
    except RemoteProtocolError:
        return ""
    generation = message.params.get("generation", "")
    return generation if message.msgid == EventType.LOG_OPENED and is_stream(generation) else ""
