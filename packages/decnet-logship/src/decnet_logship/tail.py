"""The files of the event log: which there are, in which order, and whole lines of one from an offset on.

    events.log                  the one that is written; its first line is a `log.opened` event with its generation
    events.log.<generation>     rotated by rename, final; oldest modification first

A generation is a stream of the shipping protocol. An open file is held by its descriptor, so a rename does not
matter; it is final once another file stands at the log's path. A line is handed out once its LF is there.

What this refuses: a file whose first line has no generation is not ours and is never shipped, and a file that is
shorter than what was read of it was cut by somebody (copytruncate, a careless hand): shipping on would put other bytes
at offsets that the master has. Both are said aloud and tried again, and the next rotation ends them.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from decnet_core.errors import RemoteProtocolError, Unavailable
from decnet_core.events import EventType
from decnet_core.shipping.control import MAX_LINE_BYTES, is_stream
from decnet_core.syslog.rfc5424 import decode

BLOCK_BYTES = 256 << 10
"""One read, one write to the connection; larger blocks ship no faster."""

_HEADER_BYTES = 4096
"""A `log.opened` line is about 300 bytes."""

_SCAN_BYTES = 1 << 20


class Foreign(RemoteProtocolError):
    """A file is not one of our log's."""


@dataclass(frozen=True, slots=True)
class Hole:
    """A line that is too long to be shipped: so many bytes, with its LF."""

    length: int


class LogFile:
    """One open file of the log."""

    def __init__(self, descriptor: int, generation: str) -> None:
        self._descriptor = descriptor
        self._scanned = 0  # no LF lies between the last offset asked for and here
        self.generation = generation

    @classmethod
    def open(cls, path: Path) -> LogFile | None:
        """Open a file; None when it does not exist or its first line is not whole yet.

        Raises:
            Foreign: it is no regular file, or its first line holds no generation.
            Unavailable: it cannot be read.
        """
        try:
            # A FIFO must not hold us up.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as cause:
            if cause.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link, a socket
                raise _foreign(path) from cause
            raise _unreadable(path, cause) from cause
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _foreign(path)
            generation = _generation(os.pread(descriptor, _HEADER_BYTES, 0), path)
        except OSError as cause:
            os.close(descriptor)
            raise _unreadable(path, cause) from cause
        except Foreign:
            os.close(descriptor)
            raise
        if generation is None:
            os.close(descriptor)
            return None
        return cls(descriptor, generation)

    def close(self) -> None:
        """Let go of it; twice is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def size_bytes(self) -> int:
        """Tell how long it is now."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int) -> bytes | Hole | None:
        """Read whole lines from an offset that is behind an LF.

        Returns:
            about `BLOCK_BYTES` of lines, each with its LF; a hole for a line above `MAX_LINE_BYTES`; None while there
            is no whole line.

        Raises:
            RemoteProtocolError: the file ends before the offset: it was cut.
            Unavailable: it cannot be read.
        """
        try:
            if self.size_bytes() < offset:
                raise RemoteProtocolError(
                    f"The event log's file {self.generation} was cut below what the master has ({offset} bytes)",
                    "Nothing but the agent may write it; restart the agent, which then begins a new file.",
                )
            for length in (BLOCK_BYTES, MAX_LINE_BYTES + 1):
                data = os.pread(self._descriptor, length, offset)
                whole = data.rfind(b"\n") + 1
                if whole:
                    self._scanned = 0
                    return data[:whole]
                if len(data) < length:
                    return None
            return self._hole(offset)
        except OSError as cause:
            raise Unavailable(f"Cannot read the event log: {cause.strerror}", "Look at the worker's disk.") from cause

    def is_at(self, path: Path) -> bool:
        """Tell whether this file stands at a path."""
        try:
            there = path.stat()
        except FileNotFoundError:
            return False
        here = os.fstat(self._descriptor)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def is_final(self, path: Path) -> bool:
        """Tell whether another file stands at the log's path, so that this one grows no more."""
        return path.exists() and not self.is_at(path)

    def _hole(self, offset: int) -> Hole | None:
        """Look for the end of an over-long line, each byte once."""
        at = max(self._scanned, offset)
        while data := os.pread(self._descriptor, _SCAN_BYTES, at):
            found = data.find(b"\n")
            if found >= 0:
                self._scanned = 0
                return Hole(at + found + 1 - offset)
            at += len(data)
        self._scanned = at
        return None


def rotated_files(path: Path) -> list[Path]:
    """List the rotated files beside the log, oldest first.

    Raises:
        Unavailable: the folder cannot be read.
    """
    try:
        with os.scandir(path.parent) as entries:
            found = [
                (entry.stat(follow_symlinks=False).st_mtime_ns, Path(entry.path))
                for entry in entries
                if entry.name.startswith(f"{path.name}.") and is_stream(entry.name[len(path.name) + 1 :])
            ]
    except FileNotFoundError:
        return []
    except OSError as cause:
        raise _unreadable(path.parent, cause) from cause
    return [rotated for _, rotated in sorted(found)]


def _generation(head: bytes, path: Path) -> str | None:
    line, end, _ = head.partition(b"\n")
    if not end:
        if len(head) == _HEADER_BYTES:
            raise _foreign(path)
        return None
    try:
        message = decode(line)
    except RemoteProtocolError as cause:
        raise _foreign(path) from cause
    generation = message.params.get("generation", "")
    if message.msgid != EventType.LOG_OPENED or not is_stream(generation):
        raise _foreign(path)
    return generation


def _foreign(path: Path) -> Foreign:
    return Foreign(
        f"{path} is no event log of ours: no regular file, or its first line holds no generation",
        "Restart the agent, which moves it aside and begins a new file.",
    )


def _unreadable(path: Path, cause: OSError) -> Unavailable:
    return Unavailable(f"Cannot read {path}: {cause.strerror}", "Let the user who runs logship read it.")
