"""What the ingester writes: events, the lines that were none, and how far it has read, all in one transaction.

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

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from decnet_core.errors import Conflict, LocalProtocolError
from decnet_master.journal.reader import START, Position
from decnet_master.store.engine import Database
from decnet_master.store.events import NewEvent, insert_events
from decnet_master.store.schema import dead_letters, ingest_position
from decnet_master.store.values import micros, moment, original, storable


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

    async def position(self) -> Position:
        """Tell up to where the journal is stored; `START` before the first row."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(ingest_position))).one_or_none()
        return START if row is None else Position(row.segment, row.offset)

    async def append(
        self, rows: Sequence[NewEvent], letters: Sequence[DeadLetter], position: Position, expected: Position
    ) -> None:
        """Store rows and dead letters and move the position, durably, all or nothing.

        Args:
            rows: in their order.
            letters: in their order.
            position: where the journal is read from next.
            expected: where the caller read it from.

        Raises:
            Conflict: the stored position is not the expected one; nothing was stored.
            LocalProtocolError: the database refuses a row (`refusal` tells which); nothing was stored.
            Unavailable, RetryLater: the database does not answer. Whether the rows were stored is not known: read
                the position again.
        """
        move = (
            update(ingest_position)
            .where(ingest_position.c.segment == expected.segment, ingest_position.c.offset == expected.offset)
            .values(segment=position.segment, offset=position.offset)
        )
        async with self._database.write() as connection:
            if (await connection.execute(move)).rowcount != 1:
                raise Conflict(
                    "Another ingester has moved the position in the journal", "Run one ingester for one database."
                )
            await insert_events(connection, rows, copy=not self._database.is_sqlite)
            if letters:
                await connection.execute(insert(dead_letters), [_record(letter) for letter in letters])

    async def refusal(self, row: NewEvent) -> str | None:
        """Try one row without keeping it: why the database refuses it, or None when it would not.

        Raises:
            Unavailable, RetryLater: the database does not answer.
        """
        try:
            async with self._database.write() as connection:
                await connection.execute(select(ingest_position.c.id))
                await insert_events(connection, [row], copy=not self._database.is_sqlite)
                await connection.rollback()
        except (LocalProtocolError, IntegrityError) as refused:
            return str(refused) if isinstance(refused, LocalProtocolError) else "A constraint refuses it"
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
        "raw": letter.raw,
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
