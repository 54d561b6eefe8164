"""The loop: read, sort, store, and wait where there is nothing to do or nobody to give it to.

Latency and load. A line that comes after a pause is stored at once. While lines keep coming, a transaction is begun
when `batch_rows` of them are there, or `max_wait_secs` after the last one was begun: so a trickle costs few commits.
Whoever is behind takes more at a time: each part that leaves others waiting doubles the next one, up to `GROWTH` times
`batch_rows`, for a large transaction stores a row at half the cost. The journal is looked at every 5 to 50 ms, the
longer the quieter it is.

While the database stores one part, the next is read and sorted in a thread. It is stored only if the first one was:
else it is thrown away, and read again from where the database says.

A transaction holds whole batches of the journal (the position stands between batches), so it may exceed its rows by
the lines of one.

Failures. A database that does not answer is waited for with a growing delay; nothing is lost meanwhile, the journal
keeps it. Whether the transaction that failed was committed is then read from the database, never guessed. A row that
the database refuses (our bug: `lines` should have bounded it) is found and becomes a dead letter, see `refused`.

Cancelling is safe at every await, by the same transaction.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from decnet_core.errors import Conflict, LocalProtocolError, RemoteProtocolError, Unavailable
from decnet_core.logs import shown
from decnet_master.ingester.parts import Part, PartReader
from decnet_master.ingester.refused import store_without_refused
from decnet_master.journal.reader import JournalReader, Position
from decnet_master.store import DeadLetter, Store

GROWTH = 8
"""How many times larger than `batch_rows` a transaction may be when more waits: beyond, a row costs what it costs."""

KEPT_SEGMENTS = 1
"""Segments that stay although they are stored: what came last can still be looked at as it came."""

FIRST_POLL_SECS = 0.005
LONGEST_POLL_SECS = 0.05

FIRST_DELAY_SECS = 0.1
LONGEST_DELAY_SECS = 10.0

CONFLICTS = 3
"""One means that a transaction of a killed ingester was committed late. More mean that somebody else is at work."""

log = structlog.get_logger()

T = TypeVar("T")


class Ingester:
    """Moves lines from the journal to the store, for ever."""

    def __init__(self, reader: JournalReader, store: Store, *, batch_rows: int, max_wait_secs: float) -> None:
        self._reader = reader
        self._parts = PartReader(reader)
        self._store = store
        self._batch_rows = batch_rows
        self._max_wait_secs = max_wait_secs
        self._conflicts = 0
        self._delay_secs = FIRST_DELAY_SECS  # before the next try, while the database is away

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Ingest until cancelled.

        Args:
            started: called once, when the position is known.

        Raises:
            RemoteProtocolError: the journal is damaged; nothing behind the damage was stored.
            Conflict: another ingester works on this database.
        """
        position = await self._patiently(self._store.ingest.position)
        log.info("ingester.started", segment=position.segment, offset=position.offset)
        started()
        await self._clean(position)
        try:
            await self._follow(position)
        finally:
            log.info("ingester.stopped")

    async def _follow(self, position: Position) -> None:
        poll_secs = FIRST_POLL_SECS
        due = time.monotonic()
        rows = self._batch_rows
        part: Part | None = None
        while True:
            part = part or await self._read(position, rows)
            early_secs = due - time.monotonic()
            if part is None:
                await asyncio.sleep(poll_secs)
                poll_secs = min(poll_secs * 2, LONGEST_POLL_SECS)
            elif early_secs > 0 and part.count < self._batch_rows:
                await asyncio.sleep(early_secs)
                part = None  # what came meanwhile goes with it
            else:
                poll_secs = FIRST_POLL_SECS
                due = time.monotonic() + self._max_wait_secs
                rows = self._batch_rows if part.is_last else min(2 * rows, GROWTH * self._batch_rows)
                position, part = await self._store_and_read_on(part, position, rows)

    async def _store_and_read_on(self, part: Part, position: Position, rows: int) -> tuple[Position, Part | None]:
        """Store a part while the next one is read; the position to go on from, and that part if it begins there."""
        reading = asyncio.create_task(self._read(part.after, rows))
        try:
            after = await self._store_part(part, position)
        except BaseException:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            raise
        following = await reading
        if after.segment != position.segment:
            await self._clean(after)
        return after, following if after == part.after else None

    async def _read(self, position: Position, rows: int) -> Part | None:
        delay_secs = FIRST_DELAY_SECS
        while True:
            try:
                return await asyncio.to_thread(self._parts.read, position, rows)
            except Unavailable as cause:
                log.warning("journal.awaited", reason=cause.message, retry_in_secs=delay_secs)
                await asyncio.sleep(delay_secs)
                delay_secs = min(delay_secs * 2, LONGEST_DELAY_SECS)

    async def _store_part(self, part: Part, position: Position) -> Position:
        """Store a part; the position to go on from."""
        letters, after = part.lines.letters, part.after
        try:
            try:
                await self._store.ingest.append(part.lines.load, letters, after, position)
            except LocalProtocolError as cause:
                letters = await store_without_refused(self._store.ingest, part, position, cause.message)
        except Conflict:
            self._conflicts += 1
            if self._conflicts >= CONFLICTS:
                raise
            log.warning("position.moved_elsewhere", segment=position.segment, offset=position.offset)
            return await self._patiently(self._store.ingest.position)
        except Unavailable as cause:
            await self._wait_for_database(cause)
            return await self._patiently(self._store.ingest.position)
        self._conflicts = 0
        if self._delay_secs != FIRST_DELAY_SECS:
            self._delay_secs = FIRST_DELAY_SECS
            log.info("database.returned")
        _tell(part, letters)
        return after

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the database until it answers."""
        while True:
            try:
                return await ask()
            except Unavailable as cause:
                await self._wait_for_database(cause)

    async def _wait_for_database(self, cause: Unavailable) -> None:
        """Wait, longer each time until something could be stored: a full disk answers questions."""
        log.warning("database.awaited", reason=cause.message, advice=cause.advice, retry_in_secs=self._delay_secs)
        await asyncio.sleep(self._delay_secs)
        self._delay_secs = min(self._delay_secs * 2, LONGEST_DELAY_SECS)

    async def _clean(self, position: Position) -> None:
        """Delete the journal's segments that are stored, but for the last ones."""
        if position.segment <= KEPT_SEGMENTS:
            return
        limit = Position(position.segment - KEPT_SEGMENTS, 0)
        try:
            deleted = await asyncio.to_thread(self._reader.delete_before, limit)
        except (Unavailable, RemoteProtocolError) as cause:
            log.warning("journal.awaited", reason=cause.message, retry_in_secs=None)
            return
        if deleted:
            log.info("journal.segments_deleted", count=deleted, before_segment=limit.segment)


def _tell(part: Part, letters: Sequence[DeadLetter]) -> None:
    for batch in part.batches:
        if batch.is_lost:
            log.error("journal.loss_passed", segment=batch.next.segment, offset=batch.start, end=batch.end)
        elif not batch.lines:
            size_bytes = batch.end - batch.start
            log.warning("journal.hole_passed", identity=shown(batch.identity), size_bytes=size_bytes)
    if letters:
        first = letters[0]
        count = len(letters)
        log.warning("line.refused", count=count, identity=shown(first.identity), reason=first.reason)
