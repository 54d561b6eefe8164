"""Take written files from the kernel; let each be attributed when the records of all who may have written it are in.

A file's writer was forked before it wrote, so its record's room in the ring was taken before the file's event came. A
batch of events is read first, then the ring's end is noted, and the batch waits until the records up to there are in
(`records` says why that may take a while). The loop goes on meanwhile. The wait is bounded: after `OVERDUE_SECS` the
batch goes on with what is known, which is logged, and files of writers that are not known are told of as such.

Nothing is read while there is no room for open files: events wait in the kernel then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog

from decnet_agent.tap.fanotify import READ_EVENTS
from decnet_agent.tap.file_queue import Taken

OVERDUE_SECS = 2.0
"""Longer than a host takes a processor away from a virtual machine that it lets live."""
LOOK_AGAIN_SECS = 0.002

log = structlog.get_logger()


class Past(Protocol):
    """What can tell whether all is known that happened up to a moment: `records.Records`."""

    @property
    def end(self) -> int:
        """The present moment."""

    def drain(self, end: int | None = None) -> bool:
        """Take in what is there; tell whether all up to a moment was."""


async def reached(past: Past) -> bool:
    """Wait, for `OVERDUE_SECS` at most, until all is taken in that happened up to now; tell whether it is."""
    end, overdue_at = past.end, time.monotonic() + OVERDUE_SECS
    while not past.drain(end):
        if time.monotonic() >= overdue_at:
            log.warning("tap.records_overdue", files=0)
            return False
        await asyncio.sleep(LOOK_AGAIN_SECS)
    return True


class Queue(Protocol):
    """Where events come from: `file_queue.FileQueue`."""

    @property
    def fd(self) -> int:
        """What to wait on."""

    def read(self, limit: int = READ_EVENTS) -> Iterator[Taken]:
        """Give what is there now."""


class Intake:
    """The way from the queue to `begin`.

    Args:
        begin: takes a batch of events, in order.
        room: how many more it may be given now.
        emptied: called whenever the queue was found empty.
    """

    def __init__(
        self,
        queue: Queue,
        past: Past,
        begin: Callable[[list[Taken]], None],
        *,
        room: Callable[[], int],
        emptied: Callable[[], None],
    ) -> None:
        self._queue, self._past, self._begin = queue, past, begin
        self._room, self._emptied = room, emptied
        self._batch: list[Taken] = []
        self._needed, self._overdue_at = 0, 0.0
        self._listening = False

    @property
    def waiting(self) -> int:
        """Events that are read and wait for records."""
        return len(self._batch)

    def listen(self) -> None:
        """Take from now on whenever there is something and room for it; to be called again when there is room."""
        self._listening = True
        if not self._batch:
            asyncio.get_running_loop().add_reader(self._queue.fd, self._take_and_go_on)

    def stop(self) -> None:
        """Take only when `take` is called."""
        self._listening = False
        asyncio.get_running_loop().remove_reader(self._queue.fd)

    def take(self) -> bool:
        """Read what is there, as far as there is room, and hand on what may be; tell whether there was or is any."""
        if not self._batch and not self._read():
            return False
        if self._past.drain(self._needed):
            self._hand_on()
        elif time.monotonic() >= self._overdue_at:
            log.warning("tap.records_overdue", files=len(self._batch))
            self._hand_on()
        return True

    def _read(self) -> bool:
        room = self._room()
        if room <= 0:
            return False
        self._batch = list(self._queue.read(min(room, READ_EVENTS)))
        self._needed, self._overdue_at = self._past.end, time.monotonic() + OVERDUE_SECS
        if not self._batch:
            self._emptied()
        return bool(self._batch)

    def _hand_on(self) -> None:
        batch, self._batch = self._batch, []
        self._begin(batch)

    def _take_and_go_on(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._queue.fd)
        if not self._listening:
            return
        try:
            self.take()
        finally:
            if self._batch:
                loop.call_later(LOOK_AGAIN_SECS, self._take_and_go_on)
            elif self._room() > 0:
                self.listen()
