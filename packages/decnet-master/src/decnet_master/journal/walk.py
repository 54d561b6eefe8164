"""Walk over the records of one segment, a mebibyte at a time whatever the segment's size."""

from __future__ import annotations

import os
from collections.abc import Iterator

from decnet_master.journal.record import HEAD_BYTES, Record, records, wanted_bytes

_READ_BYTES = 1 << 20


def walk(fd: int, start: int = 0, end: int | None = None) -> Iterator[tuple[int, Record]]:
    """Yield the whole records of a segment with the offset that each ends at.

    Ends quietly at `end`, at the file's end, and at a record that one of them cuts off.

    Args:
        fd: the segment, open for reading.
        start: where a record begins.
        end: read no further.

    Raises:
        RemoteProtocolError: what stands behind the last record that was yielded is none.
        OSError: the disk cannot be read.
    """
    at, wanted = start, HEAD_BYTES
    while raw := os.pread(fd, _bounded(max(wanted, _READ_BYTES), at, end), at):
        before = at
        for record in records(memoryview(raw)):
            at += record.size_bytes
            yield at, record
        wanted = wanted_bytes(memoryview(raw)[at - before :])
        if at == before and len(raw) < wanted:
            return


def _bounded(size_bytes: int, at: int, end: int | None) -> int:
    return size_bytes if end is None else min(size_bytes, end - at)
