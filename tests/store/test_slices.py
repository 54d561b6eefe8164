from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, text

from decnet_master.journal.reader import START, Position
from decnet_master.store import DeadLetter, Load, NewEvent, Store, migrate
from decnet_master.store.derived_tables import DERIVED
from decnet_master.store.engine import Database, database_url
from decnet_master.store.ingest import LETTER_BYTES, LETTERS_KEPT
from decnet_master.store.schema import dead_letters
from decnet_master.store.slices import DAY_MICROS, SLICE_BITS, Slices
from decnet_master.store.values import micros
from tests.store.samples import an_event
from tests.store.test_derived import derived_of, rebuilt

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
DAY = timedelta(days=1)


class Feed:
    """Appends events as received at given moments."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._number = 0

    async def at(self, *moments: datetime, **changes: Any) -> None:
        """Store one transaction, an event for each moment."""
        rows = []
        for moment in moments:
            self._number += 1
            rows.append(NewEvent(an_event(self._number, **changes), "w", moment))
        before = await self._store.ingest.position()
        await self._store.ingest.append(Load.of(rows), [], Position(before.segment, before.offset + 1), before)


async def seqs(store: Store) -> list[int]:
    return [row["seq"] for row in await store.events.page(limit=1000)]


async def partitions(url: str) -> set[str]:
    def names(connection: Connection) -> set[str]:
        return {name for name in inspect(connection).get_table_names() if name.startswith("events_")}

    database = Database(database_url(url), 1)
    async with database.read() as connection:
        found = await connection.run_sync(names)
    await database.close()
    return found


async def test_a_day_is_a_range_of_numbers(store: Store) -> None:
    feed = Feed(store)
    await feed.at(MONDAY, MONDAY)
    await feed.at(MONDAY + DAY - timedelta(microseconds=1))
    await feed.at(MONDAY + DAY)
    await feed.at(MONDAY + 5 * DAY, MONDAY + 5 * DAY)
    one, two = 1 << SLICE_BITS, 2 << SLICE_BITS
    assert await seqs(store) == [1, 2, 3, one, two, two + 1]
    assert await store.events.latest_seq() == two + 1
    assert [row["seq"] for row in await store.events.page(before_seq=two + 1, limit=3)] == [two, one, 3]
    assert [one.day for one in await store.slices.all()] == [micros(MONDAY + days * DAY) for days in (0, 1, 5)]


async def test_the_day_is_the_master_s_whatever_the_workers_say(store: Store) -> None:
    feed = Feed(store)
    for at in (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), MONDAY):
        await feed.at(MONDAY, at=at)
    assert await seqs(store) == [1, 2, 3]


async def test_a_transaction_over_midnight_lies_in_one_day(store: Store) -> None:
    feed = Feed(store)
    await feed.at(MONDAY + DAY - timedelta(seconds=1), MONDAY + DAY)
    await feed.at(MONDAY + DAY - timedelta(seconds=1))  # the listener's clock was stepped back a little
    assert await seqs(store) == [1, 2, 3]
    assert [one.day for one in await store.slices.all()] == [micros(MONDAY + DAY)]


async def test_a_clock_that_was_far_ahead_is_left_behind(store: Store) -> None:
    feed = Feed(store)
    await feed.at(MONDAY + 365 * 70 * DAY)
    await feed.at(MONDAY)
    await feed.at(MONDAY)
    await feed.at(MONDAY + DAY)
    assert await seqs(store) == [1, 1 << SLICE_BITS, (1 << SLICE_BITS) + 1, 2 << SLICE_BITS]


async def test_another_process_begins_no_second_slice(store: Store, url: str) -> None:
    await Feed(store).at(MONDAY)
    async with await Store.open(url) as other:
        await Feed(other).at(MONDAY)
        await Feed(other).at(MONDAY + DAY)
    await Feed(store).at(MONDAY + DAY)  # it still remembers Monday
    assert await seqs(store) == [1, 2, 1 << SLICE_BITS, (1 << SLICE_BITS) + 1]


async def test_a_transaction_that_failed_begins_no_slice(store: Store) -> None:
    feed = Feed(store)
    await feed.at(MONDAY)
    with pytest.raises(Exception, match="refuses a value"):
        await feed.at(MONDAY + DAY, pid=1 << 64)
    await feed.at(MONDAY)
    await feed.at(MONDAY + DAY)
    assert await seqs(store) == [1, 2, 1 << SLICE_BITS]


async def test_expired_days_go_with_all_that_was_last_touched_then(store: Store, url: str) -> None:
    feed = Feed(store)
    secret = {"event_type": "credential.tried", "session": "s", "fields": {"user": "root", "password": "x"}}
    await feed.at(MONDAY, MONDAY, src_ip="192.0.2.1", decky="old", **secret)
    await feed.at(MONDAY, src_ip="192.0.2.2", decky="both", **secret)
    await feed.at(MONDAY + DAY, src_ip="192.0.2.2", decky="both", **secret)
    await feed.at(MONDAY + 2 * DAY, src_ip="192.0.2.3", decky="new", **secret)

    assert await store.slices.expire(micros(MONDAY + DAY) - 1) == 0, "Monday is not over"
    assert await store.slices.expire(micros(MONDAY + DAY)) == 3
    assert await store.slices.expire(micros(MONDAY + DAY)) == 0
    assert await seqs(store) == [1 << SLICE_BITS, 2 << SLICE_BITS]
    found = await derived_of(url)
    assert [row[0] for row in found["attackers"]] == ["192.0.2.2", "192.0.2.3"]
    assert [row[2] for row in found["attacker_deckies"]] == ["both", "new"]
    assert sorted(row[2] for row in found["sessions"]) == ["both", "new"]
    assert [row[-2] for row in found["credentials"]] == [5], "sums outlive the events that they are of"
    assert [row[-2] for row in (await rebuilt(url))["credentials"]] == [2], "and count what is there when made anew"
    assert await partitions(url) in (set(), {"events_1", "events_2"})


async def test_the_newest_day_stays(store: Store) -> None:
    await Feed(store).at(MONDAY)
    assert await store.slices.expire(micros(MONDAY + 100 * DAY)) == 0
    assert await seqs(store) == [1]
    await Feed(store).at(MONDAY + 100 * DAY)
    assert await store.slices.expire(micros(MONDAY + 100 * DAY)) == 1
    assert await seqs(store) == [1 << SLICE_BITS]


async def test_two_may_expire_while_a_third_stores(store: Store, url: str) -> None:
    feed = Feed(store)
    for day in range(4):
        await feed.at(*[MONDAY + day * DAY] * 300)
    async with await Store.open(url) as other:
        counts = await asyncio.gather(
            store.slices.expire(micros(MONDAY + 3 * DAY)),
            other.slices.expire(micros(MONDAY + 3 * DAY)),
            feed.at(MONDAY + 3 * DAY),
        )
    assert sum(count or 0 for count in counts) == 900
    assert len(await seqs(store)) == 301


@pytest.mark.parametrize("stretch_rows", [3, 1000])
async def test_a_table_is_walked_over_to_its_end(store: Store, url: str, stretch_rows: int) -> None:
    feed = Feed(store)
    secret = {"event_type": "credential.tried", "fields": {"user": "root", "password": "x"}}
    for number in range(8):
        who = {"src_ip": f"192.0.2.{number % 6}", "decky": f"d{number}", "session": f"s{number}"}
        await feed.at(MONDAY + (number * 7 % 3) * DAY, **who, **secret)
    limit = micros(MONDAY + DAY)
    before = await derived_of(url)
    received = {table.name: list(table.columns.keys()).index("received_at") for table in DERIVED}
    wanted = {name: [row for row in rows if row[received[name]] >= limit] for name, rows in before.items()}
    assert all(len(wanted[name]) < len(before[name]) for name in ("attacker_deckies", "sessions", "credential_uses"))
    database = Database(database_url(url), 1)
    await Slices(database, stretch_rows).expire(limit)
    await database.close()
    assert await derived_of(url) == wanted


async def test_nothing_to_expire_takes_no_lock(tmp_path: Path, sqlite_template: Path) -> None:
    path = tmp_path / "decnet.sqlite3"
    shutil.copy(sqlite_template, path)
    async with await Store.open(f"sqlite:///{path}", connections=1) as store:
        await Feed(store).at(MONDAY, src_ip="192.0.2.1", session="s")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as ingester:
            ingester.execute("BEGIN IMMEDIATE")
            async with asyncio.timeout(5):  # who waits for the lock waits ten seconds
                assert await store.slices.expire(micros(MONDAY)) == 0


@pytest.mark.postgres
async def test_who_comes_back_while_the_old_ones_go_stays(postgres_url: str) -> None:
    await migrate(postgres_url)
    database = Database(database_url(postgres_url), 2)
    attackers = DERIVED[0]
    async with await Store.open(postgres_url) as store:
        await Feed(store).at(MONDAY, src_ip="192.0.2.1")
        await Feed(store).at(MONDAY, src_ip="192.0.2.2")
        async with database.write() as ingester:
            refresh = attackers.update().where(attackers.c.src_ip == "192.0.2.1")
            await ingester.execute(refresh.values(received_at=micros(MONDAY + 2 * DAY)))
            expiring = asyncio.create_task(store.slices.expire(micros(MONDAY + DAY)))
            await wait_for_a_lock(database)
        await expiring
    await database.close()
    assert [row[0] for row in (await derived_of(postgres_url))["attackers"]] == ["192.0.2.1"]


async def wait_for_a_lock(database: Database) -> None:
    """Wait until a transaction on this database waits for another."""
    waiting = text(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
    )
    async with asyncio.timeout(8):
        found = False
        while not found:
            async with database.read() as connection:
                found = (await connection.execute(waiting)).scalar_one()


async def test_dead_letters_are_bounded_in_size_and_number(store: Store, url: str) -> None:
    def letter(number: int, raw: bytes = b"x") -> DeadLetter:
        return DeadLetter("logship@w", "s", number, MONDAY, "no", raw)

    await store.ingest.append(Load(), [letter(0, b"y" * (LETTER_BYTES + 1))], Position(1, 1), START)
    assert [len(kept.raw) for _, kept in await store.ingest.dead_letters()] == [LETTER_BYTES]
    database = Database(database_url(url), 1)
    async with database.write() as connection:  # as if as many were there, without the seconds that it takes
        await connection.execute(dead_letters.update().values(seq=0))
        made = dead_letters.insert().values(
            seq=LETTERS_KEPT, identity="i", stream="s", position=0, received_at=0, reason="r", raw=b""
        )
        await connection.execute(made)
        if not database.is_sqlite:
            await connection.execute(text(f"ALTER TABLE dead_letters ALTER seq RESTART WITH {LETTERS_KEPT + 1}"))
    await database.close()
    await store.ingest.append(Load(), [letter(n) for n in range(3)], Position(1, 2), Position(1, 1))
    assert [seq for seq, _ in await store.ingest.dead_letters()] == [LETTERS_KEPT + n for n in range(4)]


def test_numbers_stay_exact_in_a_browser() -> None:
    assert DAY // timedelta(microseconds=1) == DAY_MICROS
    assert (1 << 53) >> SLICE_BITS > 100 * 365, "a new slice every day for a hundred years"
