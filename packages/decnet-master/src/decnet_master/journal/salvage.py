"""Find whole records behind a place where a segment is broken.

Records follow one another, so the walk over a segment ends at the first that is broken. What lies behind can only be
found by looking for the magic that each begins with, and is believed if the check sum agrees. Bytes of a line may look
like a record, by an attacker's will even: whoever asks must be content with having been too careful.

The work is bounded: candidates whose check sum is wrong cost as much as they claim to be long.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable

from decnet_core.errors import RemoteProtocolError
from decnet_master.journal.record import HEAD_BYTES, MAGIC, Record, records, wanted_bytes

CHECKED_BYTES = 1 << 30
"""Of candidates, for one answer: about a second."""


def is_record(fd: int, at: int) -> bool:
    """Tell whether a whole record begins at an offset.

    Raises:
        OSError: the disk cannot be read.
    """
    claimed = _claimed_bytes(os.pread(fd, HEAD_BYTES, at))
    return bool(claimed) and _is_whole(os.pread(fd, claimed, at), lambda _record: True)


def find_record(fd: int, start: int, accepts: Callable[[Record], bool] = lambda _record: True) -> int | None:
    """Return where the first whole record at or behind an offset begins; None when there is none.

    Args:
        fd: the segment, open for reading.
        start: offset to begin at.
        accepts: says whether a whole record is what the caller looks for.

    Raises:
        RemoteProtocolError: so much looks like records and is none that it was given up.
        OSError: the disk cannot be read.
    """
    size_bytes = os.fstat(fd).st_size
    if start >= size_bytes:
        return None
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as mapped:
        budget = CHECKED_BYTES
        at = mapped.find(MAGIC, start)
        while at >= 0 and budget > 0:
            claimed = _claimed_bytes(mapped[at : at + HEAD_BYTES])
            if claimed and at + claimed <= size_bytes:
                if _is_whole(mapped[at : at + claimed], accepts):
                    return at
                budget -= claimed
            at = mapped.find(MAGIC, at + 1)
    if at >= 0:
        raise RemoteProtocolError("Too much of a segment looks like records and is none")
    return None


def _claimed_bytes(head: bytes) -> int:
    """Return how long a record with this head would be; 0 when it is none."""
    try:
        return wanted_bytes(memoryview(head)) if len(head) == HEAD_BYTES else 0
    except RemoteProtocolError:
        return 0


def _is_whole(raw: bytes, accepts: Callable[[Record], bool]) -> bool:
    try:
        return any(accepts(record) for record in records(memoryview(raw)))
    except RemoteProtocolError:
        return False
