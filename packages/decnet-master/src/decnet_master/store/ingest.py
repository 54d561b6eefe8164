"""What the ingester writes: events and their sums, the lines that were none, how far it has read: in one transaction.

The position is one row. `append` moves it from where the caller believes it to be, in the transaction that adds the
rows: so rows and position agree after any crash, and of two ingesters on one database only one gets on (the other's
belief is wrong, it is refused, and nothing of it is stored). On both engines the update takes the row's lock first,
which is also what keeps `events.seq` in the order of commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_core.errors import Conflict, LocalProtocolError
from decnet_master.journal.reader import START, Position
from decnet_master.store.derived import merge
from decnet_master.store.engine import Database
from decnet_master.store.events import insert_events
from decnet_master.store.records import COLUMNS, Load
from decnet_master.store.schema import dead_letters, ingest_position
from decnet_master.store.slices import Slice, slice_for
from decnet_master.store.values import micros, moment, original, storable

LETTERS_KEPT = 20_000
"""Dead letters, the newest of them: a sender that speaks another language must not fill the disk with it."""

LETTER_BYTES = 256 << 10
"""Of a line that is no event; beyond any that our own programs write."""

_REACH = (ingest_position.c.last_seq, ingest_position.c.derived_seq)
"""The newest row, and the last one that the sums hold."""

RECEIVED_AT = COLUMNS.index("received_at")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A line that is no event, kept as it came.

    Attributes:
        identity: peer that sent it, from its certificate.
        stream: its stream.
        position: offset of the line in that stream, in bytes.
        received_at: aware UTC.
        reason: what is wrong with it.
        raw: the line.
    """

    identity: str
    stream: str
    position: int
    received_at: datetime
    reason: str
    raw: bytes


class Ingest:
    """The room of the ingester."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._slice: Slice | None = None  # the newest, as it was when a transaction of ours was committed

    async def position(self) -> Position:
        """Tell up to where the journal is stored; `START` before the first row."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(ingest_position))).one_or_none()
        return START if row is None else Position(row.segment, row.offset)

    async def append(self, load: Load, letters: Sequence[DeadLetter], position: Position, expected: Position) -> None:
        """Store a load and dead letters and move the position, durably, all or nothing.

        Args:
            load: events, and what they add to attackers, sessions and credentials.
            letters: in their order.
            position: where the journal is read from next.
            expected: where the caller read it from.

        Raises:
            Conflict: the stored position is not the expected one; nothing was stored.
            LocalProtocolError: the database refuses a row (`refusal` tells which); nothing was stored.
            Unavailable, RetryLater: the database does not answer. Whether the rows were stored is not known: read
                the position again.
        """
        await self.append_apart([load], letters, position, expected)

    async def append_apart(
        self, loads: Sequence[Load], letters: Sequence[DeadLetter], position: Position, expected: Position
    ) -> None:
        """Store several loads in the one transaction of `append`, each by statements of its own."""
        here = (ingest_position.c.segment == expected.segment) & (ingest_position.c.offset == expected.offset)
        move = update(ingest_position).where(here).values(segment=position.segment, offset=position.offset)
        slice_ = self._slice
        try:
            async with self._database.write() as connection:
                row = (await connection.execute(move.returning(*_REACH))).one_or_none()
                if row is None:
                    raise Conflict(
                        "Another ingester has moved the position in the journal", "Run one ingester for one database."
                    )
                reach: tuple[int, int] = (row.last_seq, row.derived_seq)
                for load in loads:
                    if load.records:
                        slice_, reach = await self._insert(connection, load, *reach)
                if letters:
                    await self._insert_letters(connection, letters)
        except IntegrityError as cause:
            raise LocalProtocolError("The database refuses a value that we wrote: a constraint") from cause
        self._slice = slice_

    async def add(self, connection: AsyncConnection, load: Load) -> None:
        """Store events of the master's own in the caller's transaction; the position stays where it is."""
        lock = update(ingest_position).values(id=1).returning(*_REACH)
        await self._insert(connection, load, *(await connection.execute(lock)).one())

    async def _insert(
        self, connection: AsyncConnection, load: Load, last_seq: int, derived_seq: int
    ) -> tuple[Slice, tuple[int, int]]:
        """Store a load behind the last row; the slice that it went to, and the new `_REACH`.

        The sums are left alone while they are behind: `store.derivation` comes to these rows too.
        """
        sqlite = self._database.is_sqlite
        received_at = max(record[RECEIVED_AT] for record in load.records)
        slice_ = await slice_for(connection, last_seq, received_at, self._slice, sqlite=sqlite)
        first_seq = max(last_seq + 1, slice_.first_seq)
        new_last = first_seq + len(load.records) - 1
        new_derived = new_last if derived_seq == last_seq else derived_seq
        await connection.execute(update(ingest_position).values(last_seq=new_last, derived_seq=new_derived))
        await insert_events(connection, load.records, first_seq, sqlite=sqlite)
        if new_derived == new_last:
            await merge(connection, load.tally, sqlite=sqlite)
        return slice_, (new_last, new_derived)

    async def _insert_letters(self, connection: AsyncConnection, letters: Sequence[DeadLetter]) -> None:
        await connection.execute(insert(dead_letters), [_record(letter) for letter in letters])
        newest = select(func.max(dead_letters.c.seq)).scalar_subquery()
        await connection.execute(delete(dead_letters).where(dead_letters.c.seq <= newest - LETTERS_KEPT))

    async def refusal(self, load: Load) -> str | None:
        """Try a load without keeping it: why the database refuses it, or None when it would not.

        Raises:
            Unavailable, RetryLater: the database does not answer.
        """
        try:
            async with self._database.write() as connection:
                await self._insert(connection, load, *(await connection.execute(select(*_REACH))).one())
                await connection.rollback()
        except LocalProtocolError as refused:
            return refused.message
        except IntegrityError:
            return "A constraint of the database refuses it"
        return None

    async def dead_letters(self, *, after_seq: int = 0, limit: int = 100) -> list[tuple[int, DeadLetter]]:
        """Read dead letters with their seq, oldest first."""
        query = select(dead_letters).where(dead_letters.c.seq > after_seq).order_by(dead_letters.c.seq).limit(limit)
        async with self._database.read() as connection:
            return [(row.seq, _letter(row)) for row in await connection.execute(query)]

    async def dead_letter_count(self) -> int:
        """Count the dead letters."""
        async with self._database.read() as connection:
            return (await connection.execute(select(func.count()).select_from(dead_letters))).scalar_one()


def _record(letter: DeadLetter) -> dict[str, Any]:
    return {
        "identity": storable(letter.identity),
        "stream": storable(letter.stream),
        "position": letter.position,
        "received_at": micros(letter.received_at),
        "reason": storable(letter.reason),
        "raw": letter.raw[:LETTER_BYTES],
    }


def _letter(row: Row[Any]) -> DeadLetter:
    return DeadLetter(
        identity=original(row.identity),
        stream=original(row.stream),
        position=row.position,
        received_at=moment(row.received_at),
        reason=original(row.reason),
        raw=bytes(row.raw),
    )
