"""Read a segment back into a table: what a start of the writer does with the newest one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from decnet_core.errors import RemoteProtocolError
from decnet_master.journal.record import Kind, Record, decode_block, decode_snapshot
from decnet_master.journal.table import OffsetTable
from decnet_master.journal.walk import walk


@dataclass(slots=True)
class Scan:
    """What a segment holds.

    Attributes:
        table: after its last whole record.
        end_bytes: where that record ends.
        has_head: its snapshot is whole.
    """

    table: OffsetTable
    end_bytes: int = 0
    has_head: bool = False


def scan(fd: int) -> Scan:
    """Read a segment up to its last whole record; what follows that is torn or damaged, the caller knows which.

    Raises:
        OSError: the disk cannot be read.
    """
    found = Scan(OffsetTable())
    with contextlib.suppress(RemoteProtocolError):
        for end_bytes, record in walk(fd):
            _take(found, record)
            found.end_bytes = end_bytes
    return found


def _take(found: Scan, record: Record) -> None:
    if record.kind is Kind.SNAPSHOT:
        more, entries = decode_snapshot(record)
        found.table.update(dict(entries))
        found.has_head = not more
    elif record.kind.is_block:
        block = decode_block(record)
        if block.kind is not Kind.FRAMES:
            found.table.update({block.key: block.end})
