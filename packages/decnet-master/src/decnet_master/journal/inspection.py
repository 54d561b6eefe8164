"""What a journal holds, for the operator: read only, and harmless while it is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from decnet_core.errors import NotFound, RemoteProtocolError
from decnet_master.journal.backlog import count_between
from decnet_master.journal.quota import Usage, usage
from decnet_master.journal.record import Key, decode_block
from decnet_master.journal.recovery import scan
from decnet_master.journal.segments import Position, read_marker, segment_numbers, segment_path
from decnet_master.journal.walk import walk


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is between the ingester's position and the journal's end."""

    lines: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """A journal as it is.

    Attributes:
        segments: numbers of the oldest and the newest, and how many there are.
        oldest_at, newest_at: when the first and the last block arrived; None when there is none.
        end: up to where it is durable.
        waiting: None when the ingester's position is not known.
        streams: up to which byte each is durable, the one that moved last at the end.
        usage: of the folder and its disk.
    """

    oldest_segment: int
    newest_segment: int
    segments: int
    oldest_at: datetime | None
    newest_at: datetime | None
    end: Position
    waiting: Waiting | None
    streams: dict[Key, int]
    usage: Usage


def inspect(folder: Path, position: Position | None) -> Inspection:
    """Look at the journal in a folder.

    Args:
        folder: where it lies.
        position: how far the ingester is, or None when that is not known.

    Raises:
        NotFound: there is none.
        OSError: the disk cannot be read.
    """
    numbers = segment_numbers(folder)
    if not numbers:
        raise NotFound(f"There is no journal in {folder}", "The listener makes it when it starts.")
    end = read_marker(folder)
    waiting = None
    if position is not None:
        counted = count_between(folder, position, end)
        waiting = Waiting(counted.lines, counted.bytes)
    fd = os.open(segment_path(folder, numbers[-1]), os.O_RDONLY | os.O_CLOEXEC)
    try:
        streams = scan(fd).table.entries()
    finally:
        os.close(fd)
    arrivals = [_arrivals(folder, number) for number in dict.fromkeys((numbers[0], numbers[-1]))]
    return Inspection(
        oldest_segment=numbers[0],
        newest_segment=numbers[-1],
        segments=len(numbers),
        oldest_at=next((first for first, _ in arrivals if first is not None), None),
        newest_at=next((last for _, last in reversed(arrivals) if last is not None), None),
        end=end,
        waiting=waiting,
        streams=streams,
        usage=usage(folder),
    )


def _arrivals(folder: Path, number: int) -> tuple[datetime | None, datetime | None]:
    """Return when the first and the last block of a segment arrived."""
    first = last = None
    try:
        fd = os.open(segment_path(folder, number), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # the ingester has just deleted it
        return None, None
    try:
        for _, record in walk(fd):
            if record.kind.is_block:
                last = decode_block(record).received_at
                first = first or last
    except RemoteProtocolError:
        pass  # `verify` is who says so
    finally:
        os.close(fd)
    return first, last
