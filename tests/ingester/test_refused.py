"""Rows that the database refuses, for whatever reason: they do not stop the others, and nothing else is given up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs
from structlog.typing import EventDict

from decnet_master.journal.record import Block, Kind
from decnet_master.journal.writer import JournalWriter
from decnet_master.store import Store
from decnet_master.store.engine import Database, database_url
from tests.ingester.journals import IDENTITY, NOW, STREAM, a_line, all_rows, append, ingesting, until, until_read

Run = Callable[[str], Awaitable[None]]


@pytest.fixture
async def run(url: str) -> AsyncIterator[Run]:
    """Run statements in the database, past the store."""
    database = Database(database_url(url), 1)

    async def run(statement: str) -> None:
        async with database.write() as connection:
            await connection.execute(text(statement))

    yield run
    await database.close()


async def refuse(run: Run, url: str, condition: str) -> None:
    """Have the database refuse rows of `events`: on SQLite code 19 (constraint), on PostgreSQL SQLSTATE 23514."""
    if url.startswith("sqlite"):
        body = f"BEGIN SELECT RAISE(ABORT, 'no') WHERE NEW.{condition}; END"
        await run(f"CREATE TRIGGER refusing BEFORE INSERT ON events {body}")
    else:
        raising = "RAISE EXCEPTION 'no' USING ERRCODE = '23514'"
        body = f"BEGIN IF NEW.{condition} THEN {raising}; END IF; RETURN NEW; END"
        await run(f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
        await run("CREATE TRIGGER refusing BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()")


async def relent(run: Run, url: str) -> None:
    await run("DROP TRIGGER refusing" if url.startswith("sqlite") else "DROP TRIGGER refusing ON events")


@pytest.mark.parametrize("poison", [{7}, {0, 1, 2, 30, 59}, set(range(60))])
async def test_a_row_that_is_refused_becomes_a_dead_letter_and_the_others_are_stored(
    store: Store, url: str, run: Run, writer: JournalWriter, folder: Path, poison: set[int]
) -> None:
    await refuse(run, url, "text = 'poison'")
    for start in range(0, 60, 20):
        numbers = range(start, start + 20)
        append(writer, [a_line(n, text="poison" if n in poison else "fine", src_ip="192.0.2.1") for n in numbers])
    async with ingesting(folder, store):
        await until_read(store, writer)
        append(writer, [a_line(60, src_ip="192.0.2.1")])  # and it goes on
        await until_read(store, writer)
    assert [int(row["cursor"]) for row in await all_rows(store)] == [n for n in range(61) if n not in poison]
    letters = [letter for _, letter in await store.ingest.dead_letters()]
    assert [letter.raw for letter in letters] == [a_line(n, text="poison", src_ip="192.0.2.1") for n in sorted(poison)]
    assert {letter.identity for letter in letters} == {IDENTITY}
    assert all("refuses" in letter.reason for letter in letters)


async def test_poison_beside_garbage_and_a_hole_keeps_the_order(
    store: Store, url: str, run: Run, writer: JournalWriter, folder: Path
) -> None:
    await refuse(run, url, "text = 'poison'")
    append(writer, [a_line(0), b"garbage", a_line(1, text="poison")])
    start = writer.durable_offset(IDENTITY, STREAM)
    writer.append([Block(IDENTITY, STREAM, start, start + 99, NOW, b"", Kind.HOLE)])
    append(writer, [a_line(2, text="poison"), a_line(3)])
    async with ingesting(folder, store):
        await until_read(store, writer)
    assert [row["cursor"] for row in await all_rows(store)] == ["0", "3"]
    raws = [letter.raw for _, letter in await store.ingest.dead_letters()]
    assert raws == [b"garbage", a_line(1, text="poison"), b"", a_line(2, text="poison")]


async def test_a_database_that_refuses_every_row_is_waited_for(
    store: Store, url: str, run: Run, writer: JournalWriter, folder: Path
) -> None:
    await refuse(run, url, "seq > 0")
    append(writer, [a_line(n) for n in range(5)])
    with capture_logs() as logs:
        async with ingesting(folder, store):
            await _wait_and_relent(store, url, run, writer, logs)
    assert [row["cursor"] for row in await all_rows(store)] == [str(n) for n in range(5)]
    assert await store.ingest.dead_letter_count() == 0


async def _wait_and_relent(store: Store, url: str, run: Run, writer: JournalWriter, logs: list[EventDict]) -> None:
    before = await store.ingest.position()

    async def was_tried() -> bool:
        return sum(line["event"] == "database.awaited" for line in logs) >= 2

    await until(was_tried)
    assert await store.ingest.position() == before
    assert await store.ingest.dead_letter_count() == 0
    await relent(run, url)
    await until_read(store, writer)


@pytest.mark.parametrize("url", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True)
async def test_what_is_larger_than_the_engine_takes_is_refused_alone(
    store: Store, run: Run, writer: JournalWriter, folder: Path
) -> None:
    append(writer, [a_line(0)])  # begins the day's partition
    async with ingesting(folder, store):
        await until_read(store, writer)
        await run("CREATE INDEX too_large ON events_0 (text)")  # SQLSTATE 54000: an entry has 2,704 bytes at most
        noise = "".join(chr(33 + n * n % 7919 % 90) for n in range(60_000))
        append(writer, [a_line(1), a_line(2, text=noise), a_line(3)])
        await until_read(store, writer)
    assert [row["cursor"] for row in await all_rows(store)] == ["0", "1", "3"]
    ((_, letter),) = await store.ingest.dead_letters()
    assert letter.reason.startswith("The database refuses")
    assert "54000" in letter.reason
