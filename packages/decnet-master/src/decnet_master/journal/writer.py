"""Append to the journal: the listener's one writer.

`append` is a group commit: all blocks of all connections in one write, one fdatasync, then the table and the marker.
It blocks, so the listener calls it in a thread, one call at a time; `durable_offset` may be asked at any moment.

When there is no room. Above its quota (`quota`) the writer refuses without touching the disk, until there is room.

When the disk fails. A write for which there is no room (ENOSPC, EDQUOT, a file size limit) is cut away and RetryLater
raised: nothing of it was promised to anyone, and the same blocks may be appended again. If even the cut fails, or the
error was another, or fdatasync failed (after which the kernel calls pages clean that it could not write, and says so
once only), the segment is suspect: nothing is written to it any more. The next append cuts it back to what was durable
before, syncs that, reads all of it back from the disk, and goes on in a new segment. Until that works, every append
raises RetryLater.

Opening takes the lock, cuts the torn tail of the newest segment (and says how much), and makes durable what was written
whole before a crash: those lines were not acknowledged, so their sender will find that the table has them already. What
stands behind the marker is written again for that: a sync that failed in the process before may have left pages that
only seem to be on the disk, and a second sync would not write them.

Damage before the marker is not a torn tail: it was acknowledged. Nor is what has whole records behind it, as the marker
may be an old one. Opening refuses then, rather than cut it away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Self

import structlog

from decnet_core.errors import (
    Conflict,
    LocalProtocolError,
    NotFound,
    RemoteProtocolError,
    RetryLater,
    Unavailable,
)
from decnet_master.journal.quota import Quota, Watermark
from decnet_master.journal.record import Block, Key, Kind, block_parts, encode_snapshot
from decnet_master.journal.recovery import Scan, scan
from decnet_master.journal.salvage import find_record
from decnet_master.journal.segments import (
    DURABLE_FILE,
    LOCK_FILE,
    START,
    Position,
    encode_marker,
    read_marker,
    segment_numbers,
    segment_path,
    sync_folder,
)
from decnet_master.journal.table import OffsetTable

SEGMENT_BYTES = 64 << 20
"""A start scans one segment (a fifth of a second), and the disk is given back in such pieces."""

LARGE_BYTES = 16 << 10
"""Data from this size on is handed to the kernel as it is; smaller blocks are gathered first, which is cheaper then."""

_MODE = 0o640
_PIECES = 512  # of one pwritev(2); the kernel takes 1,024 (IOV_MAX)
_FULL = "Free space in the data-directory; the workers keep their lines and send them again by themselves."
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_COPY_BYTES = 1 << 20
_SET_ASIDE = (
    "Look at the disk, and restore the journal's folder from a backup; or run `decnet-master journal set-aside`, which "
    "keeps what can be read, moves the damaged segment away and records what is missing."
)

log = structlog.get_logger()


class JournalWriter:
    """The open journal; make one with `open`, end it with `close`."""

    def __init__(self, folder: Path, lock_fd: int, segment_bytes: int, quota: Quota) -> None:
        self._folder = folder
        self._lock_fd = lock_fd
        self._segment_bytes = segment_bytes
        self._watermark = Watermark(folder, quota)
        self._table = OffsetTable()
        self._marker_fd = -1
        self._fd = -1
        self._end = START  # behind the last durable record
        self._suspect = False  # an append failed in a way that leaves the segment's tail unknown
        self._published = START

    @classmethod
    def open(cls, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, quota: Quota | None = None) -> Self:
        """Open the journal, made if need be, and recover it.

        Args:
            folder: where it lies.
            segment_bytes: a segment that has so many is not appended to.
            quota: how much it may hold; unbounded when none is given. Opening does not mind it.

        Raises:
            Conflict: another process writes it.
            RetryLater: the disk is full.
            Unavailable: the folder cannot be used.
            RemoteProtocolError: what was acknowledged is damaged.
        """
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as cause:
            raise _unusable(folder, cause) from cause
        writer = cls(folder, _lock(folder), segment_bytes, quota or Quota())
        try:
            writer._recover()
        except OSError as cause:
            writer.close()
            raise RetryLater(f"Cannot open the journal {folder}: {cause.strerror}", _FULL) from cause
        except RemoteProtocolError:
            writer.close()
            raise
        return writer

    def close(self) -> None:
        """Let go of the files and the lock; appended blocks are durable already."""
        for fd in (self._fd, self._marker_fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._marker_fd = self._lock_fd = -1

    @property
    def end(self) -> Position:
        """Behind the last durable record."""
        return self._end

    def durable_offset(self, identity: str, stream: str) -> int:
        """Tell up to which byte of the stream everything is durable; 0 for one that was never heard of."""
        return self._table.get((identity, stream))

    def append(self, blocks: Iterable[Block]) -> int:
        """Make blocks durable, all or none.

        Args:
            blocks: each begins where its stream's last one ended. None is allowed: it only publishes the marker
                again if that failed before.

        Returns:
            by how many bytes the journal grew for them.

        Raises:
            RetryLater: the disk did not take them, or the quota is reached (JournalFull); nothing changed, try again.
            LocalProtocolError: a gap or an overlap in a stream, or a block that does not fit its offsets.
        """
        blocks = list(blocks)
        moved = self._moved(blocks)
        pieces = _gathered(blocks)
        size_bytes = sum(map(len, pieces))
        try:
            if size_bytes:
                self._make_room(size_bytes)
                self._write(pieces)
        except OSError as cause:
            raise RetryLater(f"The journal's disk did not take a block: {cause.strerror}", _FULL) from cause
        self._end = Position(self._end.segment, self._end.offset + size_bytes)
        self._table.update(moved)
        self._publish()
        return size_bytes

    def _make_room(self, size_bytes: int) -> None:
        """Be let in by the watermark, and have a segment that may be written to."""
        goes_on = not self._suspect and self._end.offset < self._segment_bytes
        head = b"" if goes_on else encode_snapshot(self._table.entries())
        self._watermark.admit(size_bytes + len(head))
        if self._suspect:
            self._heal()
        if not goes_on:
            self._begin_segment(self._end.segment + 1, head)
            self._suspect = False

    def _moved(self, blocks: list[Block]) -> dict[Key, int]:
        moved: dict[Key, int] = {}
        for block in blocks:
            if block.kind is not Kind.FRAMES:  # plain senders never resume: their streams end with the connection
                expected = moved.get(block.key, self._table.get(block.key))
                if block.start != expected:
                    raise LocalProtocolError(
                        f"A block of {block.identity} begins at {block.start}, its stream is at {expected}"
                    )
                moved[block.key] = block.end
        return moved

    def _write(self, pieces: list[bytes]) -> None:
        """Write and sync at the end; on an error leave nothing behind, or remember that something may be."""
        try:
            _write_at(self._fd, pieces, self._end.offset)
        except OSError as cause:
            self._suspect = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end.offset)
                os.fdatasync(self._fd)
                self._suspect = cause.errno not in _NO_ROOM
            raise
        try:
            os.fdatasync(self._fd)
        except OSError:
            self._suspect = True
            raise

    def _heal(self) -> None:
        """Cut a suspect segment back to what was durable, and read that back from the disk."""
        os.ftruncate(self._fd, self._end.offset)
        os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)  # what is in memory proves nothing
        if scan(self._fd).end_bytes != self._end.offset:
            raise RetryLater(
                f"The journal's segment {self._end.segment} is not on the disk as it was acknowledged, after a failed "
                "write",
                f"Nothing is acknowledged any more. {_SET_ASIDE}",
            )

    def _begin_segment(self, number: int, head: bytes) -> None:
        """Make the next segment, whole and durable, then write to it."""
        path = segment_path(self._folder, number)
        unfinished = path.with_suffix(".new")
        fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
        try:
            view = memoryview(head)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
            unfinished.rename(path)
            sync_folder(self._folder)
        except OSError:
            os.close(fd)
            for leftover in (unfinished, path):
                leftover.unlink(missing_ok=True)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._end = Position(number, len(head))

    def _publish(self) -> None:
        """Let readers have what is durable; a failure costs delay only and is made good by the next append."""
        if self._published == self._end:
            return
        with contextlib.suppress(OSError):
            os.pwrite(self._marker_fd, encode_marker(self._end), 0)
            self._published = self._end

    def _recover(self) -> None:
        for leftover in self._folder.glob("*.new"):
            leftover.unlink()
        marker = read_marker(self._folder)
        self._marker_fd = os.open(self._folder / DURABLE_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        numbers = segment_numbers(self._folder)
        if marker.segment > (numbers[-1] if numbers else 0):
            raise RemoteProtocolError(
                f"The journal's segment {marker.segment} is missing", "Restore the journal's folder from a backup."
            )
        if numbers:
            self._recover_segment(numbers[-1], marker)
        else:
            self._begin_segment(1, encode_snapshot({}))
        sync_folder(self._folder)
        self._publish()

    def _recover_segment(self, number: int, marker: Position) -> None:
        self._fd = os.open(segment_path(self._folder, number), os.O_RDWR | os.O_CLOEXEC)
        found = scan(self._fd)
        if not found.has_head or (number == marker.segment and found.end_bytes < marker.offset):
            raise RemoteProtocolError(
                f"The journal is damaged in segment {number} near byte {found.end_bytes}, and what lies behind was "
                "acknowledged",
                _SET_ASIDE,
            )
        self._check_tail(number, found)
        _write_again(self._fd, marker.offset if number == marker.segment else 0, found.end_bytes)
        os.ftruncate(self._fd, found.end_bytes)
        os.fsync(self._fd)
        self._table = found.table
        self._end = Position(number, found.end_bytes)

    def _check_tail(self, number: int, found: Scan) -> None:
        """Tell of a torn tail, or refuse what is none."""
        torn_bytes = os.fstat(self._fd).st_size - found.end_bytes
        if not torn_bytes:
            return
        behind = find_record(self._fd, found.end_bytes + 1)
        if behind is not None:
            raise RemoteProtocolError(
                f"The journal is damaged in segment {number} near byte {found.end_bytes}: whole records lie behind it, "
                f"from byte {behind} on",
                _SET_ASIDE,
            )
        log.warning("journal.tail_cut", segment=number, offset=found.end_bytes, size_bytes=torn_bytes)


def _write_again(fd: int, start: int, end: int) -> None:
    """Write bytes over themselves, so that the next sync has them to write."""
    for at in range(start, end, _COPY_BYTES):
        _write_at(fd, [os.pread(fd, min(_COPY_BYTES, end - at), at)], at)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every writer away from a journal.

    Raises:
        Conflict: another process writes it.
        NotFound: there is none.
        Unavailable: the folder cannot be used.
    """
    if not folder.is_dir():
        raise NotFound(f"There is no journal in {folder}", "The listener makes it when it starts.")
    lock_fd = _lock(folder)
    try:
        yield
    finally:
        os.close(lock_fd)


def _lock(folder: Path) -> int:
    try:
        lock_fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    except OSError as cause:
        raise _unusable(folder, cause) from cause
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        os.close(lock_fd)
        if not isinstance(cause, BlockingIOError):
            raise _unusable(folder, cause) from cause
        raise Conflict(f"Another listener writes the journal {folder}", "Stop it, or use it.") from cause
    return lock_fd


def _unusable(folder: Path, cause: OSError) -> Unavailable:
    return Unavailable(
        f"Cannot use the journal's folder {folder}: {cause.strerror}",
        "Run as the user whom it belongs to, or give it to this one.",
    )


def _gathered(blocks: Iterable[Block]) -> list[bytes]:
    """Encode blocks to pieces that follow one another; large data is not copied."""
    pieces: list[bytes] = []
    small: list[bytes] = []
    for block in blocks:
        head, data = block_parts(block)
        small.append(head)
        if len(data) < LARGE_BYTES:
            small.append(data)
        else:
            pieces += (b"".join(small), data)
            small.clear()
    if small:
        pieces.append(b"".join(small))
    return pieces


def _write_at(fd: int, pieces: Iterable[bytes], at: int) -> None:
    """Write all pieces, however few bytes the kernel takes at a time."""
    left = deque(memoryview(piece) for piece in pieces)
    while left:
        written = os.pwritev(fd, list(islice(left, _PIECES)), at)
        at += written
        while left and written >= len(left[0]):
            written -= len(left.popleft())
        if written:
            left[0] = left[0][written:]
