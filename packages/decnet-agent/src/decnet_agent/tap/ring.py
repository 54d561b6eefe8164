"""Read the ring buffer that the kernel's programs write: one reader, in the order of time, without copies in between.

Reading and freeing are two steps: what was read stays in the ring until `consume`, so that whoever dies between them
leaves the records to the next reader of the same ring. A position counts the ring's bytes since it was made.

Layout, mapped from the map's descriptor: one page whose first 8 bytes are our position (we write it), one page whose
first 8 bytes are the kernel's, then the data. The kernel offers the data twice in a row, so that no record wraps; we
map it once and join the two pieces of a record that does, since each mapping counts as resident memory. A record is a
4-byte length with two flag bits (busy, discarded), 4 bytes of no interest, and the data, padded to 8 bytes: the first 8
never wrap.

Source: the kernel's Documentation/bpf/ringbuf.rst.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

_BUSY, _DISCARDED = 1 << 31, 1 << 30
_HEADER_BYTES = 8


class Ring:
    """The reading end; `fd` becomes readable when there is something."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.fd = fd
        self._size = size_bytes
        self._mask = size_bytes - 1
        page = mmap.PAGESIZE
        self._ours = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._theirs = mmap.mmap(fd, page + size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # Casting makes each read and write of a position one machine access.
        self._consumed = memoryview(self._ours).cast("Q")
        self._produced = memoryview(self._theirs)[:page].cast("Q")
        self._data = memoryview(self._theirs)[page:]
        self.position = self._consumed[0]
        """Where the next record begins; all before it were given out."""

    def skip_to(self, position: int) -> None:
        """Pass over what an earlier reader of this ring has dealt with and not freed."""
        self.position = min(max(position, self.position), self._produced[0])

    def read(self, limit: int) -> Iterator[bytes]:
        """Give up to `limit` records that are there now and were not given yet."""
        for _ in range(limit):
            if self.position >= self._produced[0]:
                return
            start = self.position & self._mask
            length = int.from_bytes(self._data[start : start + 4], "little" if _LITTLE else "big")
            if length & _BUSY:
                return
            self.position += _HEADER_BYTES + (length & ~(_BUSY | _DISCARDED)) + 7 & ~7
            if not length & _DISCARDED:
                yield self._bytes((start + _HEADER_BYTES) & self._mask, length)

    def _bytes(self, start: int, length: int) -> bytes:
        wrapped = start + length - self._size
        if wrapped <= 0:
            return bytes(self._data[start : start + length])
        return b"".join((self._data[start:], self._data[:wrapped]))

    @property
    def end(self) -> int:
        """Up to where the kernel has written."""
        return int(self._produced[0])

    def consume(self) -> None:
        """Free the room of all that was given."""
        self._consumed[0] = self.position

    def close(self) -> None:
        """Unmap and close."""
        for view in (self._consumed, self._produced, self._data):
            view.release()
        self._ours.close()
        self._theirs.close()
        os.close(self.fd)


_LITTLE = memoryview(b"\1\0").cast("H")[0] == 1
