"""One open file as a stream of whole lines: where it goes on, where a line is too long, and whether it is still itself.

A file is held by its descriptor, so a rename does not matter. Its *stream* is what the master counts offsets in: each
line with its LF, and before each the file's *label*, which our own event log does not have. A label makes RFC 5424 of
lines that somebody else's program wrote, and is the same for all of a file's lines, so that offsets can be counted
again from the bytes alone.

- A line is handed out once its LF is there. Only when the file is closed (it grows no more) is a half line at its end
  handed out too, as if ` [no line end]` and LF stood behind it.
- A line above `max_line_bytes` is handed out cut, with ` [cut: N bytes]` at its end, N being its length in the file;
  the rest of it is a hole in the stream. A master that has the piece and not the hole answers with an offset inside of
  the line, from which the hole goes on to the line's end.
- Every look is proved afterwards, a `seek` as much as a read: the file must still begin with the bytes that it began
  with, be no shorter than what was read, and hold the last whole lines that were seen of it, read or not. If not, it
  was truncated or written anew (copytruncate, a careless hand): what was looked at is thrown away, and the descriptor
  now holds another generation. So one that was truncated is not taken for itself because it ends before a position
  (`rotation` finishes some that do), nor because it grew past it again.

It knows no paths but its own, and nothing of other files: `rotation` does.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from decnet_core.errors import RemoteProtocolError, Unavailable
from decnet_core.shipping.control import MAX_LINE_BYTES

BLOCK_BYTES = 256 << 10
"""One read, one write to the connection; larger blocks ship no faster."""

LABELLED_BLOCK_BYTES = 64 << 10
"""Labels may multiply a block of empty lines by fifty."""

HEAD_BYTES = 1024
"""How much of a file's beginning, and of what lies before a position, tells it from others."""

UNENDED = b" [no line end]"
LONGEST_LABEL_BYTES = 512

_SCAN_BYTES = 1 << 20
_MARKS = 1024  # positions remembered between reading and acknowledgement; beyond it they get coarser


class Foreign(RemoteProtocolError):
    """What stands at a path is not a file that can be shipped."""


class Unreadable(Unavailable):
    """A file cannot be read now: a mode, a disk."""


class Replaced(RemoteProtocolError):
    """The file is no longer the one that was opened: it was truncated or written anew."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} was truncated or written anew", "Rotate by rename where you can.")


@dataclass(frozen=True, slots=True)
class Cut:
    """The beginning of an over-long line, marked and with an LF; so many bytes of the stream behind it are not sent."""

    line: bytes
    rest: int


@dataclass(frozen=True, slots=True)
class Hole:
    """So many bytes of the stream are not sent: what is left of a line whose beginning the master has."""

    length: int


class LogFile:
    """One open file.

    Attributes:
        path: under which name it was opened; it may have another one now.
        generation: the stream that it is; empty until somebody knows.
        label: stands before each line.
        acked_bytes: how much of the file the master has.
        head: the bytes that it begins with, as many as were seen.
        descriptor: for `os.pread`.
    """

    def __init__(self, descriptor: int, path: Path, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self.descriptor = descriptor
        self._max_line_bytes = max_line_bytes
        self._stream_at = self._file_at = 0  # the same position, counted in the stream and in the file
        self._rest = 0  # of a line whose beginning the master has: still to be declared, and passed already
        self._searched = 0  # no LF lies between `_file_at` and here
        self._closed_bytes = -1  # its size when it was closed
        self._tail = b""  # what a closed file is read with behind its end
        self._marks: deque[tuple[int, int]] = deque()  # positions that were read to: (stream, file)
        self.head = os.pread(descriptor, HEAD_BYTES, 0)
        self._last_lines = self._whole_lines_at_end() or (0, b"")  # where they stand, and what they are
        self.path = path
        self.generation = ""
        self.label = b""
        self.acked_bytes = 0

    @classmethod
    def open(cls, path: Path, max_line_bytes: int = MAX_LINE_BYTES) -> LogFile | None:
        """Open a file; None when it does not exist.

        Raises:
            Foreign: it is no regular file.
            Unreadable: it cannot be read.
        """
        try:
            # A FIFO must not hold us up.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as cause:
            if cause.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link, a socket
                raise _foreign(path) from cause
            raise unreadable(path, cause) from cause
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _foreign(path)
            return cls(descriptor, path, max_line_bytes)
        except OSError as cause:
            os.close(descriptor)
            raise unreadable(path, cause) from cause
        except Foreign:
            os.close(descriptor)
            raise

    @property
    def offset(self) -> int:
        """Where in the stream the next read goes on."""
        return self._stream_at

    @property
    def seen_bytes(self) -> int:
        """Where a line ends that was seen, read or not: the last whole one, if it ended near the end of the file."""
        at, lines = self._last_lines
        return at + len(lines)

    def close(self) -> None:
        """Let go of it; twice is harmless."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def stat(self) -> os.stat_result:
        """Look at it."""
        return os.fstat(self.descriptor)

    def is_at(self, path: Path) -> bool:
        """Tell whether this file stands at a path."""
        try:
            there = path.stat()
        except OSError:
            return False
        here = self.stat()
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def digest_before(self, position: int) -> str:
        """Return the SHA-256 of up to `HEAD_BYTES` bytes that end at a position of the file."""
        start = max(0, position - HEAD_BYTES)
        return hashlib.sha256(os.pread(self.descriptor, position - start, start)).hexdigest()

    def end_stream(self) -> None:
        """Say that it grows no more; a half line at its end is read as a line from now on. Twice is harmless."""
        if self._closed_bytes >= 0:
            return
        self._closed_bytes = size = self.stat().st_size
        if size and os.pread(self.descriptor, 1, size - 1) != b"\n":
            self._tail = UNENDED + b"\n"

    def seek_bytes(self, position: int) -> bool:
        """Read on at a position of the file, behind an LF; the stream's offset there is counted anew from it.

        Returns:
            False when the file ends before it.

        Raises:
            Replaced: it is no longer the file that it was.
            Unreadable: it cannot be read.
        """
        try:
            is_there = position <= self.stat().st_size
            self.prove()
        except OSError as cause:
            raise unreadable(self.path, cause) from cause
        if is_there:
            self._marks.clear()
            self._stand(position, position)
            self.acked_bytes = position
        return is_there

    def seek(self, offset: int, *, anyway: bool = False) -> bool:
        """Read on at an offset of the stream, everything before it being acknowledged.

        Args:
            offset: where.
            anyway: go on though no line of this file ends there. The master's did, so the next one begins there; in a
                file with a label, whose offsets are counted in lines, what is left of the line is a hole.

        Returns:
            False when the file ends before it, or has another line there than the one that the master has.

        Raises:
            Replaced: it is no longer the file that it was.
            Unreadable: it cannot be read.
        """
        self._marks.clear()
        try:
            found = (
                self._seek_labelled(offset, anyway=anyway) if self.label else self._seek_plain(offset, anyway=anyway)
            )
            self.prove()
        except OSError as cause:
            raise unreadable(self.path, cause) from cause
        self.acked_bytes = min(self._file_at, self.stat().st_size)
        return found

    def read(self) -> bytes | Cut | Hole | None:
        """Read on.

        Returns:
            a block of whole lines, each with its label and LF; an over-long line; the rest of one; None while there
            is no whole line.

        Raises:
            Replaced: it is no longer the file that it was.
            Unreadable: it cannot be read.
        """
        try:
            piece = self._read()
            self.prove()
        except OSError as cause:
            raise unreadable(self.path, cause) from cause
        if piece is not None:
            if len(self._marks) == _MARKS:
                self._marks.pop()
            self._marks.append((self._stream_at, self._file_at))
        return piece

    def acked(self, offset: int) -> None:
        """Take note of how much of the stream the master has."""
        while self._marks and self._marks[0][0] <= offset:
            read_bytes = self._marks.popleft()[1]
            self.acked_bytes = read_bytes if self._closed_bytes < 0 else min(read_bytes, self._closed_bytes)

    def prove(self) -> None:
        """Hold the file to what is known of it: call it after each look, for it was true while looking then.

        Raises:
            Replaced: it is shorter than what was read, begins otherwise, or lacks lines that were seen.
            OSError: it cannot be read.
        """
        needed = self._file_at if self._closed_bytes < 0 else min(self._file_at, self._closed_bytes)
        at, lines = self._last_lines
        newer = self._whole_lines_at_end()  # looked at before the older ones: if those are there, these are its own too
        head = os.pread(self.descriptor, HEAD_BYTES, 0)
        is_same = head.startswith(self.head) and os.pread(self.descriptor, len(lines), at) == lines
        if self.stat().st_size < needed or not is_same:
            raise Replaced(self.path)
        self.head = head
        self._last_lines = newer or self._last_lines

    def _whole_lines_at_end(self) -> tuple[int, bytes] | None:
        """Look at what ends with the last LF, where that is near; beyond it a writer may take back half a line."""
        start = max(0, self.stat().st_size - HEAD_BYTES)
        data = os.pread(self.descriptor, HEAD_BYTES, start)
        whole = data.rfind(b"\n") + 1
        return (start, data[:whole]) if whole else None

    def _read(self) -> bytes | Cut | Hole | None:
        if self._rest:
            hole, self._rest = Hole(self._rest), 0
            return hole
        length = LABELLED_BLOCK_BYTES if self.label else BLOCK_BYTES
        data = self._pread(length, self._file_at)
        whole = data.rfind(b"\n") + 1
        if not whole:
            if len(data) < length:
                return None
            if length <= self._max_line_bytes:
                data = self._pread(self._max_line_bytes + 1, self._file_at)
                whole = data.rfind(b"\n") + 1
                if not whole and len(data) <= self._max_line_bytes:
                    return None
        if whole:
            return self._lines(data[:whole])
        end = self._line_end(self._file_at)
        return None if end < 0 else self._cut(end)

    def _lines(self, data: bytes) -> bytes | Cut:
        if len(data) > self._max_line_bytes:
            before = _bytes_before_longer(data, self._max_line_bytes)
            if before == 0:
                return self._cut(self._file_at + data.index(b"\n"))
            data = data[:before]
        self._file_at += len(data)
        if self.label:
            data = self.label + data[:-1].replace(b"\n", b"\n" + self.label) + b"\n"
        self._stream_at += len(data)
        return data

    def _cut(self, end: int) -> Cut:
        """Cut the line that begins at `_file_at` and has its LF at `end`."""
        length = end - self._file_at
        mark = b" [cut: %d bytes]" % length
        kept = _whole_characters(self._pread(self._max_line_bytes - len(mark), self._file_at))
        line = self.label + kept + mark + b"\n"
        extent = len(self.label) + length + 1
        self._stream_at += extent
        self._file_at = end + 1
        return Cut(line, extent - len(line))

    def _line_end(self, start: int) -> int:
        """Look for the LF of a long line, each byte once; -1 while there is none."""
        at = max(self._searched, start)
        while data := self._pread(_SCAN_BYTES, at):
            found = data.find(b"\n")
            if found >= 0:
                return at + found
            at += len(data)
        self._searched = at
        return -1

    def _seek_plain(self, offset: int, *, anyway: bool) -> bool:
        """Without a label, both positions are the same number."""
        if offset > self._size():
            return False
        self._stand(offset, offset)
        if anyway or offset == 0 or self._pread(1, offset - 1) == b"\n":
            return True
        start = offset - self._shortest_cut
        if start < 0 or b"\n" in self._pread(offset - start, start):
            return False
        end = self._line_end(offset)
        return end >= 0 and self._stand(end + 1, end + 1, rest=end + 1 - offset)

    def _seek_labelled(self, offset: int, *, anyway: bool) -> bool:
        """Count the lines from the last known position, or from the beginning."""
        shortest = 0 if anyway else self._shortest_cut
        stream_at, file_at = (self._stream_at, self._file_at) if self._stream_at <= offset else (0, 0)
        label = len(self.label)
        while stream_at < offset:
            data = self._pread(_SCAN_BYTES, file_at)
            whole = data.rfind(b"\n") + 1
            extent = whole + label * data.count(b"\n")
            if whole and stream_at + extent <= offset:
                stream_at, file_at = stream_at + extent, file_at + whole
                continue
            for line in data[:whole].split(b"\n")[:-1]:
                if stream_at + label + len(line) + 1 > offset:
                    break
                stream_at, file_at = stream_at + label + len(line) + 1, file_at + len(line) + 1
            if stream_at == offset:
                break
            self._searched = 0
            end = self._line_end(file_at)
            rest = stream_at + label + (end - file_at) + 1 - offset
            if end < 0 or (rest > 0 and end - file_at < shortest):
                return False
            if rest > 0:
                return self._stand(offset + rest, end + 1, rest=rest)
            stream_at, file_at = offset + rest, end + 1
        return self._stand(stream_at, file_at)

    def _stand(self, stream_at: int, file_at: int, rest: int = 0) -> bool:
        self._stream_at, self._file_at, self._rest = stream_at, file_at, rest
        self._searched = 0
        return True

    @property
    def _shortest_cut(self) -> int:
        """No line is ever cut to less than this, so an offset inside a shorter one is of another file."""
        return self._max_line_bytes - 64

    def _size(self) -> int:
        return self.stat().st_size if self._closed_bytes < 0 else self._closed_bytes + len(self._tail)

    def _pread(self, length: int, at: int) -> bytes:
        data = os.pread(self.descriptor, length, at)
        if self._closed_bytes < 0:
            return data
        data = data[: max(0, self._closed_bytes - at)]
        behind = at + len(data) - self._closed_bytes
        return data if behind < 0 else data + self._tail[behind : behind + length - len(data)]


def _bytes_before_longer(data: bytes, limit: int) -> int:
    """Return how many bytes of whole lines stand before the first one above the limit; all, when there is none."""
    lines = data.split(b"\n")
    if len(max(lines, key=len)) <= limit:
        return len(data)
    at = 0
    for line in lines:
        if len(line) > limit:
            break
        at += len(line) + 1
    return at


def _whole_characters(data: bytes) -> bytes:
    """Leave off a UTF-8 character of which the end is missing; what is not UTF-8 stays as it is."""
    for back in range(1, 4):
        byte = data[-back] if back <= len(data) else 0
        if byte & 0xC0 != 0x80:  # the first byte of a character, or no UTF-8
            wanted = 1 if byte < 0xC0 or byte >= 0xF8 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[:-back] if wanted > back else data
    return data


def _foreign(path: Path) -> Foreign:
    return Foreign(f"{path} is no regular file", "Let the setting name the file that is written.")


def unreadable(path: Path, cause: OSError) -> Unreadable:
    """Say that a file cannot be read."""
    why = cause.strerror or type(cause).__name__
    return Unreadable(f"Cannot read {path}: {why}", "Let the user who runs logship read it, and look at its disk.")
