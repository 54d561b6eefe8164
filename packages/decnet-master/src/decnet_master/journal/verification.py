"""Walk a whole journal and say where it is broken, harmlessly while the listener writes and the ingester deletes.

Held to the design of the journal (`decnet_master.journal`): the segments follow one another without a gap; each begins
with a whole table, which is what the segments before it add up to; every record's check sum is right; the blocks of
each (identity, stream) follow one another without gap or overlap; frames of plain senders can be cut. What stands
behind the `durable` marker is being written and is not looked at. A segment that goes away meanwhile was stored.

Behind a broken record nothing can be found again in its segment; the walk goes on with the next one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from decnet_core.errors import NotFound, RemoteProtocolError
from decnet_master.journal.backlog import count_lines
from decnet_master.journal.record import Block, Key, Kind, Record, decode_block, decode_snapshot
from decnet_master.journal.segments import START, Position, read_marker, segment_numbers, segment_path
from decnet_master.journal.table import OffsetTable
from decnet_master.journal.walk import walk

MOST_FAULTS = 1000
"""One for each break; whoever has more has lost the journal."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A place where the journal is not what it must be."""

    segment: int
    offset: int
    what: str


@dataclass(slots=True)
class Verified:
    """What was walked, up to `end`, and what is wrong with it; what is `lost` was set aside before, and is known."""

    end: Position
    segments: int = 0
    records: int = 0
    lines: int = 0
    bytes: int = 0
    lost_bytes: int = 0
    faults: list[Fault] = field(default_factory=list)


def verify(folder: Path) -> Verified:
    """Walk the journal in a folder.

    Raises:
        NotFound: there is none.
        OSError: the disk cannot be read.
    """
    numbers = segment_numbers(folder)
    if not numbers:
        raise NotFound(f"There is no journal in {folder}", "The listener makes it when it starts.")
    # Read after the listing: whatever lies before the marker is in the listing, or was deleted since.
    durable = read_marker(folder)
    seen = _Walker(folder, Verified(durable))
    if durable == START:
        seen.fault(numbers[0], 0, "The durable marker is missing or broken; the listener mends it when it starts")
    elif durable.segment not in numbers and durable.segment in segment_numbers(folder):
        numbers.append(durable.segment)  # it was begun just now
    last = durable.segment if durable != START else numbers[-1]
    for number in range(numbers[0], last + 1):
        if len(seen.found.faults) >= MOST_FAULTS:
            break
        limit = durable.offset if number == durable.segment else None
        seen.segment(number, limit, torn_end_is_fine=durable == START and number == last)
    return seen.found


class _Walker:
    """Goes from segment to segment; `_table` is what they add up to, None when that is not known."""

    def __init__(self, folder: Path, found: Verified) -> None:
        self.found = found
        self._folder = folder
        self._table: OffsetTable | None = None
        self._plain = OffsetTable()

    def fault(self, segment: int, offset: int, what: str) -> None:
        self.found.faults.append(Fault(segment, offset, what))

    def segment(self, number: int, limit: int | None, *, torn_end_is_fine: bool) -> None:
        try:
            fd = os.open(segment_path(self._folder, number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            left = segment_numbers(self._folder)
            if not left or number > left[0]:  # the ingester deletes the oldest ones
                self.fault(number, 0, "The segment is missing")
            self._table = None
            return
        try:
            size = os.fstat(fd).st_size
            end = self._records(number, fd, size if limit is None else limit)
            self.found.segments += 1
            self.found.bytes += end
            if end < (size if limit is None else limit) and not torn_end_is_fine and not self._is_told_of(number):
                self.fault(number, end, "The segment ends inside a record")
        finally:
            os.close(fd)

    def _is_told_of(self, number: int) -> bool:
        return self._table is None and any(fault.segment == number for fault in self.found.faults)

    def _records(self, number: int, fd: int, limit: int) -> int:
        """Walk one segment; where the last good record ends."""
        head: dict[Key, int] = {}
        before, is_in_head, at = self._table, True, 0
        try:
            for at_next, record in walk(fd, 0, limit):
                self.found.records += 1
                if record.kind is Kind.LOST:
                    self.found.lost_bytes += record.size_bytes
                    self._table, self._plain, is_in_head = None, OffsetTable(), False
                elif is_in_head:
                    is_in_head = self._head(number, at, record, head, before)
                elif record.kind is Kind.SNAPSHOT:
                    self.fault(number, at, "A table stands in the middle of the segment")
                else:
                    self._block(number, at, decode_block(record))
                at = at_next
        except RemoteProtocolError as error:
            self.fault(number, at, error.message)
            self._table = None
        if is_in_head and self._table is not None:
            self.fault(number, at, "The table at the segment's beginning is not whole")
            self._table = None
        return at

    def _head(self, number: int, at: int, record: Record, head: dict[Key, int], before: OffsetTable | None) -> bool:
        """Read one record of the table; whether more of them must follow."""
        if record.kind is not Kind.SNAPSHOT:
            raise RemoteProtocolError("The segment does not begin with a table")
        more, entries = decode_snapshot(record)
        head.update(entries)
        if more:
            return True
        if before is not None and before.entries() != head:
            self.fault(number, at, "The table at the segment's beginning is not what the segments before add up to")
        self._table = OffsetTable()
        self._table.update(head)
        return False

    def _block(self, number: int, at: int, block: Block) -> None:
        for what in _wrong_with(block, self._table, self._plain):
            self.fault(number, at, what)
        self.found.lines += count_lines(block)
        table = self._plain if block.kind is Kind.FRAMES else self._table
        if table is not None:
            table.update({block.key: block.end})


def _wrong_with(block: Block, table: OffsetTable | None, plain: OffsetTable) -> Iterator[str]:
    if block.kind is Kind.FRAMES:
        try:
            block.lines()
        except RemoteProtocolError as error:
            yield error.message
        known = plain.get(block.key)
        if known and block.start != known:  # a stream whose beginning was deleted may begin anywhere
            yield f"A plain stream of {block.identity} goes on at {block.start}, it was at {known}"
    elif table is not None and block.start != table.get(block.key):
        yield f"A stream of {block.identity} goes on at {block.start}, it was at {table.get(block.key)}"
