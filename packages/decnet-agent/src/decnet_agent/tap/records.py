"""Take in what the kernel's programs wrote, in order, and know how far.

Records are read when the ring says that there are some, a few milliseconds later, so that one commit serves many. Who
must know of everything up to a moment notes `end` and calls `drain` until it is reached. That need not be at once: the
ring gives records in the order in which their room was taken, and a processor may take its room and be stopped before
it has written (on a virtual machine for as long as the host pleases). All that others wrote behind it waits with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog

from decnet_core.errors import DecnetError

GATHER_SECS = 0.005
"""How long records may wait in the ring for others: nobody sees it on a screen."""
RECORDS_AT_ONCE = 2000
"""Records taken before other things get a turn: about 50 ms."""

log = structlog.get_logger()


class Source(Protocol):
    """Where records come from: the kernel's ring, see `ring`."""

    @property
    def fd(self) -> int:
        """What to wait on."""

    @property
    def position(self) -> int:
        """Where the next record begins."""

    @property
    def end(self) -> int:
        """Up to where room was taken."""

    def read(self, limit: int) -> Iterator[bytes]:
        """Give what is there."""


class Records:
    """The reading of one source.

    Args:
        take: takes one record in; a DecnetError is logged and the record left out.
        commit: makes safe what was made of them.
    """

    def __init__(self, source: Source, take: Callable[[bytes], None], commit: Callable[[], None]) -> None:
        self._source, self._take, self._commit = source, take, commit
        self._stopped = False

    def start(self) -> None:
        """Read from now on whenever there is something."""
        asyncio.get_running_loop().add_reader(self._source.fd, self._gather)

    def stop(self) -> None:
        """Read only when `drain` is called."""
        self._stopped = True
        asyncio.get_running_loop().remove_reader(self._source.fd)

    @property
    def end(self) -> int:
        """Up to where the kernel has given room to records; those up to here are of the past."""
        return self._source.end

    def drain(self, end: int | None = None) -> bool:
        """Take in what is there; tell whether that was all up to a place, which is the present end unless given.

        Bounded by that place: an attacker who adds as fast as we read gets no endless loop.
        """
        wanted, before = self.end if end is None else end, -1
        while before < self._source.position < wanted:
            before = self._source.position
            self._read()
        return self._source.position >= wanted

    def _gather(self) -> None:
        """Let what follows at once come too: one commit for a program's fork, exec and exit costs a third of three."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._source.fd)
        loop.call_later(GATHER_SECS, self._read_gathered)

    def _read_gathered(self) -> None:
        if self._stopped:
            return
        try:
            self._read()
        finally:  # a bug in the reading of one record must not make the tap deaf to all others
            asyncio.get_running_loop().add_reader(self._source.fd, self._gather)

    def _read(self) -> None:
        for data in self._source.read(RECORDS_AT_ONCE):
            try:
                self._take(data)
            except DecnetError as cause:
                log.warning("tap.record_unreadable", reason=cause.message)
        self._commit()
