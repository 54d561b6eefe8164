"""Make the derived tables anew from the events, in pieces, while events are stored.

`ingest_position.derived_seq` is the last event that the tables hold. While it is the newest one, whoever stores events
adds them to the tables in the same transaction and moves it along. Otherwise he leaves the tables alone, and `more`
adds the events behind it, `PIECE_ROWS` at a time: read and folded without any lock, added in a short transaction that
moves `derived_seq` from where it was when they were read. So it can be stopped anywhere and gone on with by anybody,
several at once, and every event is counted once, in the order of `seq`. Until it has come to the newest event the
tables show a part of what there is.

Each piece is a transaction far below the bound of `store.engine`, however many events there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_master.store.derived import clear, merge, tally_of
from decnet_master.store.derived_tables import DERIVED_VERSION
from decnet_master.store.engine import Database
from decnet_master.store.records import COLUMNS
from decnet_master.store.schema import events, ingest_position

PIECE_ROWS = 5_000
"""Some 10 MB, and a tenth of a second of SQLite's one write lock."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What `more` did: how many events it added, and whether the tables have all of them now."""

    events: int
    is_last: bool


class Derivation:
    """The room of the derived tables' making."""

    def __init__(self, database: Database, piece_rows: int = PIECE_ROWS) -> None:
        self._database = database
        self._piece_rows = piece_rows

    async def rebuild(self) -> int:
        """Make the tables anew, or finish what was begun.

        Returns:
            how many events were added.

        Raises:
            Unavailable, RetryLater: the database does not answer; called again, it goes on.
        """
        if not await self.is_behind():
            async with self._database.write() as connection:
                await begin(connection, sqlite=self._database.is_sqlite)
        return await self.catch_up()

    async def catch_up(self) -> int:
        """Add events until the tables have all of them; returns and raises as `rebuild`."""
        count = 0
        while True:
            piece = await self.more()
            count += piece.events
            if piece.is_last:
                return count

    async def is_behind(self) -> bool:
        """Tell whether there are events that the tables do not have."""
        async with self._database.read() as connection:
            derived_seq, last_seq = await _reach(connection)
        return derived_seq != last_seq

    async def more(self) -> Piece:
        """Add the next events to the tables.

        Raises:
            Unavailable, RetryLater: the database does not answer.
        """
        async with self._database.read() as connection:
            derived_seq, last_seq = await _reach(connection)
            if derived_seq == last_seq:
                return Piece(0, is_last=True)
            page = await self._page(connection, derived_seq, last_seq)
        tally = tally_of(tuple(row)[1:] for row in page)
        end_seq = page[-1].seq if len(page) == self._piece_rows else last_seq
        move = update(ingest_position).where(ingest_position.c.derived_seq == derived_seq).values(derived_seq=end_seq)
        async with self._database.write() as connection:
            if (await connection.execute(move)).rowcount != 1:
                return Piece(0, is_last=False)  # somebody else did
            await merge(connection, tally, sqlite=self._database.is_sqlite)
        return Piece(len(page), is_last=False)

    async def _page(self, connection: AsyncConnection, derived_seq: int, last_seq: int) -> list[Row[Any]]:
        query = select(events.c.seq, *(events.c[name] for name in COLUMNS))
        query = query.where(events.c.seq > derived_seq, events.c.seq <= last_seq).order_by(events.c.seq)
        return list((await connection.execute(query.limit(self._piece_rows))).all())


async def begin(connection: AsyncConnection, *, sqlite: bool) -> None:
    """Empty the tables, inside the caller's transaction; `more` fills them."""
    # First, for its lock: who stores events at this moment would add them to tables that are emptied then.
    await connection.execute(update(ingest_position).values(derived_version=DERIVED_VERSION, derived_seq=0))
    await clear(connection, sqlite=sqlite)


async def _reach(connection: AsyncConnection) -> tuple[int, int]:
    row = (await connection.execute(select(ingest_position.c.derived_seq, ingest_position.c.last_seq))).one_or_none()
    return (0, 0) if row is None else (row.derived_seq, row.last_seq)
