"""What waits for the ingester: lines and bytes between its position and the journal's end.

The listener counts what it appends (`add`) and forgets what the ingester has stored (`stored`); after its start what
waited already is read once, beside everything else, and put before (`precede`). Counting is exact as long as few groups
wait. Beyond `SPANS`, neighbours are joined: a count then takes a joined span as waiting until all of it is stored.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from decnet_core.errors import RemoteProtocolError
from decnet_master.journal.record import Block, Kind, Record, decode_block
from decnet_master.journal.segments import START, Position, segment_numbers, segment_path
from decnet_master.journal.walk import walk

SPANS = 4096
"""A few hundred KiB of memory; a journal of 8 GiB is then counted in pieces of 2 to 4 MiB."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the journal that ends at a position."""

    end: Position
    lines: int
    bytes: int


class Backlog:
    """Kept by the listener."""

    def __init__(self) -> None:
        self._spans: deque[Span] = deque()
        self.lines = 0
        self.bytes = 0

    def add(self, span: Span) -> None:
        """Count what was appended."""
        self._spans.append(span)
        self.lines += span.lines
        self.bytes += span.bytes
        if len(self._spans) > SPANS:
            self._join()

    def precede(self, older: Backlog) -> None:
        """Count what lies before all that was added."""
        self._spans.extendleft(reversed(older._spans))
        self.lines += older.lines
        self.bytes += older.bytes

    def stored(self, position: Position) -> None:
        """Forget what lies before the ingester's position."""
        while self._spans and self._spans[0].end <= position:
            span = self._spans.popleft()
            self.lines -= span.lines
            self.bytes -= span.bytes

    def _join(self) -> None:
        spans = list(self._spans)
        pairs = zip_longest(spans[::2], spans[1::2])
        self._spans = deque(
            one if two is None else Span(two.end, one.lines + two.lines, one.bytes + two.bytes) for one, two in pairs
        )


def count_lines(block: Block) -> int:
    """Count a block's lines; 0 for a hole, and for frames that are broken."""
    if block.kind is Kind.LINES:
        return block.data.count(b"\n")
    try:
        return len(block.lines())
    except RemoteProtocolError:
        return 0


def count_between(
    folder: Path, position: Position, end: Position, goes_on: Callable[[], bool] = lambda: True
) -> Backlog:
    """Read what waits between the ingester's position and an end.

    What is damaged or was deleted meanwhile is passed over: whoever ingests will say so. It ends early, with what is
    counted so far, when `goes_on` says no.

    Raises:
        OSError: the disk cannot be read.
    """
    backlog = Backlog()
    numbers = segment_numbers(folder)
    if position == START and numbers:
        position = Position(numbers[0], 0)
    for number in numbers:
        if position.segment <= number <= end.segment:
            start = position.offset if number == position.segment else 0
            limit = end.offset if number == end.segment else None
            for span in _spans(segment_path(folder, number), number, start, limit):
                backlog.add(span)
                if not goes_on():
                    return backlog
    return backlog


def _spans(path: Path, number: int, start: int, end: int | None) -> Iterator[Span]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for at, record in walk(fd, start, end):
            yield Span(Position(number, at), _lines_of(record), record.size_bytes)
    except RemoteProtocolError:
        return
    finally:
        os.close(fd)


def _lines_of(record: Record) -> int:
    return count_lines(decode_block(record)) if record.kind.is_block else 0
