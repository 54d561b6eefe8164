"""Read a segment back into a table: what a start of the writer does with the newest one."""

from __future__ import annotations

import os
from dataclasses import dataclass

from decnet_core.errors import RemoteProtocolError
from decnet_master.journal.record import (
    HEAD_BYTES,
    Kind,
    Record,
    decode_block,
    decode_snapshot,
    records,
    wanted_bytes,
)
from decnet_master.journal.table import OffsetTable

_READ_BYTES = 1 << 20


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
    wanted = HEAD_BYTES
    while raw := os.pread(fd, max(wanted, _READ_BYTES), found.end_bytes):
        before = found.end_bytes
        try:
            for record in records(memoryview(raw)):
                _take(found, record)
            wanted = wanted_bytes(memoryview(raw)[found.end_bytes - before :])
        except RemoteProtocolError:
            break
        if found.end_bytes == before and len(raw) < wanted:
            break  # the file ends inside this record
    return found


def _take(found: Scan, record: Record) -> None:
    if record.kind is Kind.SNAPSHOT:
        more, entries = decode_snapshot(record)
        found.table.update(dict(entries))
        found.has_head = not more
    else:
        block = decode_block(record)
        if block.kind is not Kind.FRAMES:
            found.table.update({block.key: block.end})
    found.end_bytes += record.size_bytes
