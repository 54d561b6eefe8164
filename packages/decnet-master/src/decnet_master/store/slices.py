"""Slices: the rows of one day, a range of `events.seq` each, so that old days can go at once.

    seq = slice number << SLICE_BITS | the row's place in its slice

A slice is begun by the first transaction whose newest line the master received on a later day (UTC, the master's own
clock) than the slice before; all rows of a transaction lie in one slice. A clock that was set back does not end a
slice unless by more than a day, which is how it comes out again of a date far in the future. `event_days` tells the
day of each. Within a slice the numbers have no gaps.

On PostgreSQL a slice is a partition, made in the transaction that begins it: no row ever lacks one, none is late, and
whatever is read by `seq` touches only the partitions that hold it. Expiring drops the partition. SQLite deletes the
same range in chunks, each a short transaction.

With the events of an expired day go attackers, sessions and credentials that nobody has touched since, and its dead
letters. A derived row that lives on keeps its sums, of events that are gone too. Those rows are found by walking over
each table in stretches of its primary key, read without a lock; only a stretch that holds some is written to. An index
on `received_at` would find them sooner, once an hour; but it would have to be moved with every row that the ingester
touches, which costs it more than that.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, delete, exists, func, insert, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_master.store.derived_tables import DERIVED
from decnet_master.store.engine import Database
from decnet_master.store.schema import dead_letters, event_days, events

SLICE_BITS = 36
"""68 thousand million rows a day; 2^17 days remain exact in the 53 bits of a browser's numbers."""

DAY_MICROS = 24 * 3600 * 1_000_000

CHUNK_ROWS = 5_000
"""Deleted at a time on SQLite, whose one write lock the ingester waits for meanwhile: some 50 ms."""

STRETCH_ROWS = 5_000
"""Rows of a table that one transaction may look through, and delete."""

PAUSE_SECS = 0.05
"""Between two chunks. Who waits for SQLite's write lock is not woken but looks again, in its first quarter of a second
every 50 ms or sooner: without a pause as long, the next chunk would mostly take the lock before the ingester looks."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One day's range of rows; `day` is its midnight, in microseconds."""

    number: int
    day: int

    @property
    def first_seq(self) -> int:
        """The least seq that may lie in it; there is no row 0."""
        return max(self.number << SLICE_BITS, 1)

    @property
    def end_seq(self) -> int:
        """The first seq behind it."""
        return (self.number + 1) << SLICE_BITS


async def slice_for(
    connection: AsyncConnection, last_seq: int, received_at: int, known: Slice | None, *, sqlite: bool
) -> Slice:
    """Tell the slice that rows received then go to, begun if need be, inside the caller's transaction.

    Args:
        connection: holds the lock of the ingester's position.
        last_seq: of the newest row; 0 before the first.
        received_at: of the newest line, in microseconds.
        known: what the last call gave, once that was committed.
        sqlite: which engine it is.
    """
    day = received_at // DAY_MICROS * DAY_MICROS
    number = last_seq >> SLICE_BITS
    if known is None or known.number != number:
        query = select(event_days.c.day).where(event_days.c.number == number)
        began = (await connection.execute(query)).scalar()
        known = None if began is None else Slice(number, began)
    if known is not None and known.day - DAY_MICROS <= day <= known.day:
        return known
    new = Slice(number if known is None else number + 1, day)
    await connection.execute(insert(event_days).values(number=new.number, day=day))
    if not sqlite:
        # Attaching takes a lock that readers and writers do not notice; CREATE … PARTITION OF would stop them.
        await connection.execute(text(f"CREATE TABLE events_{new.number} (LIKE events INCLUDING INDEXES)"))
        bounds = f"FOR VALUES FROM ({new.number << SLICE_BITS}) TO ({new.end_seq})"
        await connection.execute(text(f"ALTER TABLE events ATTACH PARTITION events_{new.number} {bounds}"))
    return new


class Slices:
    """The room of the days: which there are, and letting the old ones go."""

    def __init__(self, database: Database, stretch_rows: int = STRETCH_ROWS) -> None:
        self._database = database
        self._stretch_rows = stretch_rows

    async def all(self) -> list[Slice]:
        """List the slices, oldest first."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(event_days).order_by(event_days.c.number))
            return [Slice(row.number, row.day) for row in rows]

    async def expire(self, before: int) -> int:
        """Let go of all days that ended before a moment, and of what was last touched then.

        The newest slice stays whatever its day. Interrupted, it is simply called again.

        Args:
            before: microseconds since 1970 UTC.

        Returns:
            how many events are gone.

        Raises:
            Unavailable, RetryLater: the database does not answer; what was deleted so far is.
        """
        expired = [one for one in (await self.all())[:-1] if one.day + DAY_MICROS <= before]
        count = 0
        for one in expired:
            count += await (self._delete(one) if self._database.is_sqlite else self._drop(one))
        for table in (*DERIVED, dead_letters):
            await self._delete_stale(table, before)
        return count

    async def _drop(self, one: Slice) -> int:
        within = events.c.seq.between(one.first_seq, one.end_seq - 1)
        async with self._database.write() as connection:
            # Two that expire at once: the second waits here, and finds it gone.
            gone = delete(event_days).where(event_days.c.number == one.number)
            if (await connection.execute(gone)).rowcount != 1:
                return 0
            # By the ends of the primary key: a slice has no gaps, and counting its rows would read them all.
            ends = select(func.min(events.c.seq), func.max(events.c.seq)).where(within)
            first, last = (await connection.execute(ends)).one()
            await connection.execute(text(f"DROP TABLE events_{one.number}"))
        return 0 if first is None else last - first + 1

    async def _delete(self, one: Slice) -> int:
        count = 0
        oldest = select(events.c.seq).where(events.c.seq.between(one.first_seq, one.end_seq - 1))
        chunk = delete(events).where(events.c.seq.in_(oldest.order_by(events.c.seq).limit(CHUNK_ROWS)))
        while True:
            async with self._database.write() as connection:
                deleted = (await connection.execute(chunk)).rowcount
                count += deleted
                if deleted < CHUNK_ROWS:
                    await connection.execute(delete(event_days).where(event_days.c.number == one.number))
                    return count
            await asyncio.sleep(PAUSE_SECS)

    async def _delete_stale(self, table: Table, before: int) -> None:
        """Walk over a table in the order of its key and delete what nobody touched since, a stretch at a time."""
        keys = tuple(table.primary_key.columns)
        key, untouched = tuple_(*keys), table.c.received_at < before
        stretch = select(*keys).order_by(*keys).offset(self._stretch_rows - 1).limit(1)
        last: tuple[Any, ...] | None = None
        while True:
            behind = [] if last is None else [key > tuple_(*last)]
            async with self._database.read() as connection:
                end = (await connection.execute(stretch.where(*behind))).one_or_none()
                within = behind if end is None else [*behind, key <= tuple_(*end)]
                is_stale = (await connection.execute(select(exists().where(*within, untouched)))).scalar_one()
            if is_stale:
                async with self._database.write() as connection:
                    await connection.execute(delete(table).where(*within, untouched))
                await asyncio.sleep(PAUSE_SECS)
            if end is None:
                return
            last = tuple(end)
