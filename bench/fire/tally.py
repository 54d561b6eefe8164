"""Count what reached the database: lost, duplicated, reordered, altered, and what nobody sent.

Rows are read in the order of `seq`, the database's own. The numbers of each log must come as 0, 1, 2, … to the last:
a number that is missing is lost, one that comes again is duplicated, one that comes after a larger one is reordered. A
row whose words are not those of its number is altered, a row that no writer made is foreign; so is a second
`log.opened` of one file. Lines that became dead letters count as lost and are told apart.

What the ingester derives must have counted the same events: each of ours has an address and a session (another
program's line has neither), so the sums over attackers and over sessions are their number. By how much they are not is
`miscounted`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships none
from sqlalchemy import Row as SqlRow
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from bench.fire.numbered import FOREIGN_PREFIX, SOURCE_PREFIX, foreign_text, text_of, type_of
from decnet_core.events import EventType
from decnet_master.journal.segments import START, Position
from decnet_master.store.derived_tables import attacker_deckies, attackers, sessions
from decnet_master.store.engine import database_url
from decnet_master.store.schema import dead_letters, events, ingest_position

PAGE_ROWS = 20_000
ANSWER_SECS = 10.0

OURS, THEIRS = "events.log", "app.log"
"""A worker's event log, and a log of it that another program writes."""

Log = tuple[str, str]
"""(worker, which of the two)."""

Row = tuple[str, str, str, str, str]
"""(worker, source, cursor, event_type, text)."""

_COLUMNS = (events.c.worker, events.c.source, events.c.cursor, events.c.event_type, events.c.text)


@dataclass(slots=True)
class Tally:
    """What was found; all but `rows` and `dead_letters` are faults when above zero.

    Attributes:
        rows: numbered lines in the database, repeats included.
        examples: one sentence each about the first faults.
    """

    rows: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    altered: int = 0
    foreign: int = 0
    miscounted: int = 0
    dead_letters: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether every line is there once, in order, as it was written, and nothing else."""
        faults = (self.lost, self.duplicated, self.reordered, self.altered, self.foreign, self.miscounted)
        return not any((*faults, self.dead_letters))


class Counter:
    """Takes the rows in their order; `finish` gives the tally."""

    def __init__(self, written: Mapping[Log, int]) -> None:
        """Begin.

        Args:
            written: log -> how many numbered lines it was given.
        """
        self._workers = {worker for worker, _ in written}
        self._seen = {log: bytearray(count) for log, count in written.items()}
        self._largest = dict.fromkeys(written, -1)
        self._events = 0
        self._opened: set[str] = set()
        self._tally = Tally()

    def take(self, rows: Iterable[Row]) -> None:
        """Count rows that follow those before."""
        for row in rows:
            worker, source, cursor, event_type, text = row
            if event_type == EventType.LOG_OPENED:
                if worker not in self._workers or source in self._opened:
                    self._fault("foreign", f"{source} of {worker} came again, or is nobody's")
                self._opened.add(source)
            elif source == SOURCE_PREFIX + worker:
                number = int(cursor)
                wanted = (type_of(number), text_of(worker, number))
                self._number((worker, OURS), number, as_written=(event_type, text) == wanted)
            elif source.startswith(f"logship@{worker}/") and text.startswith(FOREIGN_PREFIX):
                number = int(text.removeprefix(FOREIGN_PREFIX).partition(" ")[0])
                self._number((worker, THEIRS), number, as_written=text == foreign_text(worker, number))
            else:
                self._fault("foreign", f"{source} {cursor} of {worker} was never written")

    def finish(self, letters: int = 0, derived: Mapping[str, int] = MappingProxyType({})) -> Tally:
        """Count what never came.

        Args:
            letters: dead letters in the database.
            derived: what was derived from the events -> how many events it says that it counted.
        """
        for name, events_counted in derived.items():
            if events_counted != self._events:
                off = abs(events_counted - self._events)
                self._fault("miscounted", f"{name} counted {events_counted} of {self._events} events", off)
        for (worker, log), seen in self._seen.items():
            missing = seen.count(0)
            if missing:
                self._fault("lost", f"{log} of {worker} misses {missing}, the first is {seen.index(0)}", missing)
        self._tally.dead_letters = letters
        return self._tally

    def _number(self, log: Log, number: int, *, as_written: bool) -> None:
        name = f"{number} of {log[1]} of {log[0]}"
        if number not in range(len(self._seen.get(log, b""))):
            self._fault("foreign", f"{name} was never written")
            return
        self._tally.rows += 1
        self._events += log[1] == OURS
        if not as_written:
            self._fault("altered", f"{name} is not what was written")
        if self._seen[log][number]:
            self._fault("duplicated", f"{name} came again")
            return
        self._seen[log][number] = 1
        if number < self._largest[log]:
            self._fault("reordered", f"{name} came after {self._largest[log]}")
        self._largest[log] = max(number, self._largest[log])

    def _fault(self, kind: str, example: str, count: int = 1) -> None:
        setattr(self._tally, kind, getattr(self._tally, kind) + count)
        if len(self._tally.examples) < 10:
            self._tally.examples.append(f"{kind}: {example}")


async def tally(url: str, written: Mapping[Log, int]) -> Tally:
    """Read the whole database and count."""
    engine = create_async_engine(database_url(url))
    counter = Counter(written)
    try:
        async with engine.connect() as connection:
            after = 0
            while page := await _page(connection, after):
                counter.take(_without_seq(row) for row in page)
                after = page[-1][0]
            letters = await connection.scalar(select(func.count()).select_from(dead_letters))
            derived = {
                table.name: int(await connection.scalar(select(func.sum(table.c.events))) or 0)
                for table in (attackers, attacker_deckies, sessions)
            }
    finally:
        await engine.dispose()
    return counter.finish(letters or 0, derived)


def _without_seq(row: SqlRow[Any]) -> Row:
    return (row.worker, row.source, row.cursor, row.event_type, row.text)


async def _page(connection: AsyncConnection, after: int) -> list[SqlRow[Any]]:
    query = select(events.c.seq, *_COLUMNS).where(events.c.seq > after).order_by(events.c.seq).limit(PAGE_ROWS)
    return list(await connection.execute(query))


async def ingested(url: str) -> Position:
    """Tell up to where the journal is in the database; the start while that cannot be told."""
    engine = create_async_engine(database_url(url))
    try:
        async with asyncio.timeout(ANSWER_SECS), engine.connect() as connection:
            row = (await connection.execute(select(ingest_position))).one_or_none()
    except (SQLAlchemyError, OSError, TimeoutError, asyncpg.PostgresError):  # it may be recovering
        return START
    finally:
        await engine.dispose()
    return START if row is None else Position(row.segment, row.offset)
