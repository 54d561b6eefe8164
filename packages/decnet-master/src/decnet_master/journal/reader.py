"""Read the journal while the writer appends to it.

A reader trusts what the `durable` marker covers and nothing beyond: bytes after it may be half written, or gone after
a power cut. So an incomplete tail is simply not there yet, while anything wrong before the marker is damage and an
error. It opens files for reading only and needs no lock.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from decnet_core.errors import RemoteProtocolError, Unavailable
from decnet_master.journal.record import HEAD_BYTES, PLAIN, Kind, decode_block, records, wanted_bytes
from decnet_master.journal.segments import START, Position, read_marker, segment_numbers, segment_path, sync_folder

__all__ = ["START", "Batch", "JournalReader", "Position"]

_ADVICE = (
    "Restore the journal's folder from a backup, or run `decnet-master journal set-aside`; until then nothing behind "
    "the damage is stored or deleted."
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines that arrived together.

    Attributes:
        identity: who sent them, `role@host`, from his certificate.
        stream: which stream of his.
        start, end: byte positions in the stream; line n begins where line n-1 ended with its LF. `end - start` with
            no lines is a hole: bytes that the sender declared not to send.
        is_lost: what stood here in the journal was damaged and set aside; nobody knows whose it was. `start` and `end`
            are offsets in the segment of `next` then, and there is no identity, stream or line.
        received_at: aware UTC.
        lines: without their LF, in order, bytes as they came.
        next: where to read on after this batch.
    """

    identity: str
    stream: str
    start: int
    end: int
    received_at: datetime
    lines: tuple[bytes, ...]
    next: Position
    is_lost: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether they came from a syslog daemon of somebody else's, without acknowledgements."""
        return self.stream.startswith(PLAIN)


class JournalReader:
    """Reads the journal in a folder, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, position: Position, max_bytes: int) -> list[Batch]:
        """Read batches that are durable.

        Args:
            position: `START` or the `next` of the last batch that was taken.
            max_bytes: stop before more than this is read; one batch is always read, however large it is.

        Returns:
            whole batches in order; none at the end of what is durable.

        Raises:
            RemoteProtocolError: the journal is damaged, or is not the one that the position is of.
            Unavailable: the disk cannot be read.
        """
        try:
            return self._read(position, max_bytes)
        except OSError as cause:
            raise Unavailable(
                f"Cannot read the journal: {cause.strerror}", "Look at the disk of the data-directory."
            ) from cause

    def delete_before(self, position: Position) -> int:
        """Delete the segments that lie wholly before the position.

        Returns:
            how many were deleted.

        Raises:
            Unavailable: a file cannot be deleted.
        """
        limit = min(position.segment, read_marker(self._folder).segment)
        old = [number for number in segment_numbers(self._folder) if number < limit]
        try:
            for number in old:  # oldest first: a crash in between leaves no gap
                segment_path(self._folder, number).unlink(missing_ok=True)
            if old:
                sync_folder(self._folder)
        except OSError as cause:
            raise Unavailable(
                f"Cannot delete a read segment of the journal: {cause.strerror}",
                "The daemon's user must own the folder.",
            ) from cause
        return len(old)

    def _read(self, position: Position, max_bytes: int) -> list[Batch]:
        durable = read_marker(self._folder)
        if position >= durable:
            self._check_not_lost(position)
            return []
        numbers = segment_numbers(self._folder)
        if position.segment == 0 and numbers:
            position = Position(numbers[0], 0)
        batches: list[Batch] = []
        budget = max_bytes
        while position < durable and (budget > 0 or not batches):
            if position.segment not in numbers:
                raise RemoteProtocolError(f"The journal's segment {position.segment} is missing", _ADVICE)
            limit = durable.offset if position.segment == durable.segment else None
            piece = _read_piece(segment_path(self._folder, position.segment), position, limit, budget, not batches)
            batches += piece.batches
            budget -= piece.next.offset - position.offset
            if piece.next == position and not piece.at_end:
                break  # the next batch is larger than what may still be read
            position = Position(position.segment + 1, 0) if piece.at_end else piece.next
        return batches

    def _check_not_lost(self, position: Position) -> None:
        """Hold the journal to what was read from it; its marker alone may be older, after a power cut."""
        if position == START:
            return
        try:
            size = segment_path(self._folder, position.segment).stat().st_size
        except FileNotFoundError:
            size = -1
        if size < position.offset:
            raise RemoteProtocolError("The journal is shorter than what was read from it before", _ADVICE)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Batches of one segment, where to read on, and whether that is the segment's end."""

    batches: list[Batch]
    next: Position
    at_end: bool


def _read_piece(path: Path, position: Position, limit: int | None, budget: int, at_least_one: bool) -> _Piece:
    """Read up to `budget` bytes of records; when `at_least_one`, the first one whatever its size."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        limit = size if limit is None else limit
        available = limit - position.offset
        if limit > size or available < 0:
            raise _damaged(position)
        raw = os.pread(file.fileno(), min(max(budget, HEAD_BYTES), available), position.offset)
        if available and (needed := _first_size(raw, position)) > len(raw):
            if needed > available:
                raise _damaged(position)
            if at_least_one:
                raw = os.pread(file.fileno(), needed, position.offset)
    batches, after = _parsed(raw, position)
    if len(raw) == available and after.offset != limit:
        raise _damaged(after)
    return _Piece(batches, after, at_end=after.offset == limit)


def _parsed(raw: bytes, position: Position) -> tuple[list[Batch], Position]:
    batches: list[Batch] = []
    at = position
    try:
        for record in records(memoryview(raw)):
            after = Position(at.segment, at.offset + record.size_bytes)
            if record.kind is Kind.LOST:
                batches.append(Batch("", "", at.offset, after.offset, datetime.now(UTC), (), after, is_lost=True))
            elif record.kind.is_block:
                block = decode_block(record)
                head = (block.identity, block.stream, block.start, block.end, block.received_at)
                batches.append(Batch(*head, block.lines(), after))
            at = after
    except RemoteProtocolError as cause:
        raise _damaged(at) from cause
    return batches, at


def _first_size(raw: bytes, position: Position) -> int:
    try:
        return wanted_bytes(memoryview(raw))
    except RemoteProtocolError as cause:
        raise _damaged(position) from cause


def _damaged(position: Position) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"The journal is damaged in segment {position.segment} near byte {position.offset}", _ADVICE
    )
