"""Set what is damaged in a journal aside, so that the rest goes on: what was promised and cannot be read is recorded.

    <folder>/set-aside/0000000000000003.20261123T120000.seg     the segment as it was; nothing is ever deleted here

In the segment's place comes a copy in which each damaged stretch is LOST records, as long as the stretch. So every
record that can be read stays where it was, and so do the ingester's position and the marker; when the ingester comes to
a LOST record, it stores an event that says from where to where evidence is missing. A segment that is gone is replaced
by one that holds nothing else.

What stands behind a damaged stretch is where the head of the damaged record says, or else found by `salvage`. A record
that was found in the middle of other bytes is believed if it goes on with a stream that is known: whoever writes a line
does not know those.

The newest segment is not written to any more if it is damaged: the next one begins with the table that the good
records add up to. Where the ingester has stored what is damaged now, the senders are held to the offsets that the
listener reported last, so that nothing comes twice; where it has not, they are asked for what was lost again, and send
it if they still have it.

The caller has the journal's lock. Whatever ends this in the middle, it can be run again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from decnet_core.errors import NotFound, RemoteProtocolError
from decnet_master.journal.record import (
    HEAD_BYTES,
    MAX_BODY_BYTES,
    Key,
    Kind,
    Record,
    decode_block,
    decode_snapshot,
    encode_lost,
    encode_snapshot,
    wanted_bytes,
)
from decnet_master.journal.salvage import find_record, is_record
from decnet_master.journal.segments import (
    DURABLE_FILE,
    Position,
    encode_marker,
    read_marker,
    segment_numbers,
    segment_path,
    sync_folder,
)
from decnet_master.journal.table import OffsetTable
from decnet_master.journal.walk import walk

FOLDER = "set-aside"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of a segment that are no whole records; `is_stored` when the ingester had stored them before."""

    segment: int
    start: int
    end: int
    is_stored: bool


@dataclass(frozen=True, slots=True)
class _Seen:
    """One segment: up to where it counts, what is damaged before that, and the table that it ends with, if known."""

    end_bytes: int
    stretches: list[tuple[int, int]]
    table: OffsetTable | None


def find_damage(folder: Path, position: Position) -> list[Stretch]:
    """Look for what is damaged; nothing is changed.

    Args:
        folder: the journal's.
        position: how far the ingester is.

    Raises:
        NotFound: there is no journal.
        OSError: the disk cannot be read.
    """
    return [
        Stretch(number, start, end, Position(number, end) <= position)
        for number, seen in _look(folder).items()
        for start, end in seen.stretches
    ]


def set_aside(folder: Path, position: Position, reported: Mapping[Key, int], now: datetime) -> list[Stretch]:
    """Set aside what is damaged; nothing happens when nothing is.

    Args:
        folder: the journal's, whose lock the caller has.
        position: how far the ingester is.
        reported: up to where the listener said that streams are durable.
        now: for the names of what is set aside.

    Returns:
        what is damaged.

    Raises:
        NotFound: there is no journal.
        RemoteProtocolError: where each stream stands cannot be found out.
        OSError: the disk cannot be read or written.
    """
    seen, found = _look(folder), find_damage(folder, position)
    if not found:
        return []
    newest = max(seen)
    if seen[newest].stretches:
        # First: once it is there the one before is an old one, whose head nobody needs.
        _begin(folder, newest + 1, encode_snapshot(_table_of(seen[newest], newest, found, reported).entries()))
    for number in sorted({stretch.segment for stretch in found}):
        _replace(folder, number, seen[number], position, f"{now:%Y%m%dT%H%M%S}")
    return found


def _table_of(seen: _Seen, newest: int, found: list[Stretch], reported: Mapping[Key, int]) -> OffsetTable:
    table = seen.table
    if table is None:
        raise RemoteProtocolError(
            f"The table at the beginning of the journal's segment {newest} is damaged, and what came before is gone",
            "Restore the journal's folder from a backup.",
        )
    if all(stretch.is_stored for stretch in found if stretch.segment == newest):
        table.update({key: offset for key, offset in reported.items() if offset > table.get(key)})
    return table


def _look(folder: Path) -> dict[int, _Seen]:
    numbers = segment_numbers(folder)
    if not numbers:
        raise NotFound(f"There is no journal in {folder}", "The listener makes it when it starts.")
    marker = read_marker(folder)
    known: OffsetTable | None = None
    seen: dict[int, _Seen] = {}
    for number in range(numbers[0], max(numbers[-1], marker.segment) + 1):
        durable_bytes = marker.offset if number == marker.segment else 0
        try:
            fd = os.open(segment_path(folder, number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            end_bytes = max(durable_bytes, HEAD_BYTES)
            seen[number] = _Seen(end_bytes, [(0, end_bytes)], known)
            continue
        try:
            # Behind the marker of the newest one a torn tail may stand, which is none of ours.
            promised_bytes = os.fstat(fd).st_size if number < max(numbers[-1], marker.segment) else durable_bytes
            seen[number] = _Walk(fd, known, promised_bytes).seen()
        finally:
            os.close(fd)
        known = seen[number].table
    return seen


class _Walk:
    """Goes over one segment, and on behind what is damaged in it."""

    def __init__(self, fd: int, known: OffsetTable | None, promised_bytes: int) -> None:
        self._fd = fd
        self._table = OffsetTable()
        self._known = known
        self._has_head = False
        self._size_bytes = os.fstat(fd).st_size
        self._promised_bytes = promised_bytes

    def seen(self) -> _Seen:
        stretches: list[tuple[int, int]] = []
        at = 0
        while True:
            at = self._take_whole(at)
            found = self._next(at)
            end = found if found is not None else max(self._promised_bytes, at)
            if end > at:
                stretches.append((at, end))
            if found is None:
                return _Seen(end, stretches, self._ends_with())
            at = found

    def _ends_with(self) -> OffsetTable | None:
        if self._has_head or self._known is None:
            return self._table if self._has_head else None
        table = OffsetTable()
        table.update(self._known.entries())
        table.update(self._table.entries())
        return table

    def _take_whole(self, at: int) -> int:
        """Take the records from an offset on; where the last whole one ends."""
        try:
            for end, record in walk(self._fd, at):
                self._take(record)
                at = end
        except RemoteProtocolError:
            return at
        return at

    def _take(self, record: Record) -> None:
        if record.kind is Kind.SNAPSHOT:
            more, entries = decode_snapshot(record)
            self._table.update(dict(entries))
            self._has_head = not more
        elif record.kind.is_block:
            block = decode_block(record)
            if block.kind is not Kind.FRAMES:
                self._table.update({block.key: block.end})

    def _next(self, at: int) -> int | None:
        """Return where whole records begin again behind an offset at which none does."""
        try:
            claimed = at + wanted_bytes(memoryview(os.pread(self._fd, HEAD_BYTES, at)))
            if is_record(self._fd, claimed):
                return claimed  # its head is right, what it holds is not
        except RemoteProtocolError:
            pass
        try:
            return find_record(self._fd, at + 1, self._is_known)
        except RemoteProtocolError:
            return None

    def _is_known(self, record: Record) -> bool:
        if not record.kind.is_block:
            return False
        try:
            block = decode_block(record)
        except RemoteProtocolError:
            return False
        known = 0 if self._known is None else self._known.get(block.key)
        return block.end > max(self._table.get(block.key), known) > 0


def _replace(folder: Path, number: int, seen: _Seen, position: Position, moment: str) -> None:
    """Put a copy in a segment's place in which what is damaged is LOST, and keep the segment itself."""
    path, kept = segment_path(folder, number), folder / FOLDER
    copy = path.with_suffix(".new")
    kept.mkdir(mode=0o750, exist_ok=True)
    if path.exists():
        shutil.copyfile(path, copy)
    else:
        copy.touch()
    copy.chmod(0o640)
    with copy.open("r+b") as file:
        file.truncate(seen.end_bytes)
        for start, end in seen.stretches:
            file.seek(start)
            for size_bytes in _sizes(start, end, position.offset if position.segment == number else start):
                file.write(encode_lost(size_bytes))
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        with contextlib.suppress(FileExistsError):  # the same file: this was interrupted just now
            os.link(path, kept / f"{path.stem}.{moment}.seg")
        sync_folder(kept)
    copy.replace(path)
    sync_folder(folder)


def _sizes(start: int, end: int, position: int) -> list[int]:
    """Cut a stretch into records, one of which begins at the ingester's position if that lies inside."""
    edges = sorted({start, end, position if start + HEAD_BYTES <= position <= end - HEAD_BYTES else start})
    sizes: list[int] = []
    for first, last in pairwise(edges):
        left = last - first
        while left > HEAD_BYTES + MAX_BODY_BYTES:
            sizes.append(MAX_BODY_BYTES)  # at least a head stays
            left -= MAX_BODY_BYTES
        sizes.append(max(left, HEAD_BYTES))  # shorter at a segment's end alone
    return sizes


def _begin(folder: Path, number: int, head: bytes) -> None:
    path = segment_path(folder, number)
    unfinished = path.with_suffix(".new")
    with unfinished.open("wb") as file:
        os.fchmod(file.fileno(), 0o640)
        file.write(head)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_folder(folder)
    with (folder / DURABLE_FILE).open("r+b" if (folder / DURABLE_FILE).exists() else "wb") as file:
        file.write(encode_marker(Position(number, len(head))))
