from __future__ import annotations

import asyncio
import re
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from decnet_core.errors import ConfigError, RetryLater, Unavailable
from decnet_master.journal.reader import START, Position
from decnet_master.store import Load, NewEvent, Store, migrate
from decnet_master.store.engine import Database, create_file, database_url
from decnet_master.store.migration import alembic_config, walk
from decnet_master.store.revision import HEAD
from decnet_master.store.schema import metadata
from tests.store.samples import HOSTILE_TEXTS, an_event
from tests.store.samples import NOW as _NOW


async def _asked(url: str, question):
    database = Database(database_url(url), 1)
    try:
        async with database.read() as connection:
            return await connection.run_sync(question)
    finally:
        await database.close()


def _tables(connection: Connection) -> set[str]:
    names = set(inspect(connection).get_table_names()) - {"alembic_version"}
    return {name for name in names if not _is_partition(name)}


def _is_partition(name: str) -> bool:
    return re.fullmatch("events_[0-9]+", name) is not None


def _differences(connection: Connection) -> list[object]:
    # SQLite has no identity columns; alembic would take ours for a default that is missing.
    defaults = connection.dialect.name == "postgresql"
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": defaults})
    return compare_metadata(context, metadata)


def _checks(connection: Connection) -> set[tuple[str, str | None]]:
    inspector = inspect(connection)
    return {(table, check["name"]) for table in metadata.tables for check in inspector.get_check_constraints(table)}


def test_head_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


async def test_the_migrated_schema_is_the_metadata(url: str) -> None:
    assert await _asked(url, _differences) == []
    assert await _asked(url, _checks) == {
        ("hosts", "ck_hosts_status"),
        ("ingest_position", "ck_ingest_position_one_row"),
        ("users", "ck_users_role"),
    }


async def test_migrations_walk_up_and_down(empty_url: str) -> None:
    steps = [s.revision for s in ScriptDirectory.from_config(alembic_config()).walk_revisions()][::-1]
    for _ in range(2):
        for step in steps:
            await walk(empty_url, step)
        assert await _asked(empty_url, _tables) == set(metadata.tables)
        for step in [*steps[-2::-1], "base"]:
            await walk(empty_url, step)
        assert await _asked(empty_url, _tables) == set()


async def test_events_walk_down_and_up_with_the_schema(url: str) -> None:
    async with await Store.open(url) as store:
        before = START
        for number in range(1, 7):
            row = NewEvent(an_event(number, text=HOSTILE_TEXTS[number]), "w", _NOW + timedelta(days=number // 3))
            await store.ingest.append(Load.of([row]), [], Position(1, number), before)
            before = Position(1, number)
        rows = await store.events.page()
    assert rows[-1]["seq"] > 1 << 36, "there are several days"
    for _ in range(2):
        await walk(url, "0003")
        await migrate(url)
        async with await Store.open(url) as store:
            again = await store.events.page()
            assert [row | {"seq": 0} for row in again] == [row | {"seq": 0} for row in rows]
            assert [row["seq"] for row in again] == list(range(1, len(rows) + 1))
            assert await store.ingest.position() == before
            row = NewEvent(an_event(99), "w", _NOW + timedelta(days=9))
            after = Position(before.segment, before.offset + 1)
            await store.ingest.append(Load.of([row]), [], after, before)
            before, rows = after, await store.events.page()


async def test_migrating_again_keeps_what_is_there(url: str) -> None:
    async with await Store.open(url) as store:
        generation = await store.fleet.next_generation(_NOW)
    await migrate(url)
    async with await Store.open(url) as store:
        assert await store.fleet.next_generation(_NOW) > generation


async def test_two_may_migrate_at_the_same_moment(empty_url: str) -> None:
    await asyncio.gather(migrate(empty_url), migrate(empty_url), migrate(empty_url))
    async with await Store.open(empty_url) as store:
        await store.ping()


def test_a_new_file_is_complete_when_it_appears(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    for _ in range(2):
        create_file(database_url(f"sqlite:///{path}"))
        assert path.read_bytes()[18:20] == b"\2\2", "its versions of writing and reading: WAL"
        assert list(tmp_path.iterdir()) == [path]


async def test_a_database_without_schema_is_refused(empty_url: str) -> None:
    await walk(empty_url, "base")
    with pytest.raises(ConfigError, match="holds no DECNET schema"):
        await Store.open(empty_url)


async def test_a_schema_of_another_release_is_refused(url: str) -> None:
    database = Database(database_url(url), 1)
    async with database.write() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    await database.close()
    with pytest.raises(ConfigError, match="schema is 9999"):
        await Store.open(url)


async def test_sqlite_file_is_ours_alone_and_durable(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite3"
    await migrate(f"sqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    database = Database(database_url(f"sqlite:///{path}"), 1)
    async with database.write() as connection:
        pragmas = [
            (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    await database.close()
    assert pragmas == ["wal", 2, 1, 10_000]


@pytest.mark.postgres
async def test_postgres_sessions_are_bounded_and_durable(postgres_url: str) -> None:
    database = Database(database_url(postgres_url), 1)
    async with database.read() as connection:
        settings = [
            (await connection.exec_driver_sql(f"SHOW {name}")).scalar()
            for name in ("statement_timeout", "lock_timeout", "synchronous_commit", "application_name")
        ]
    await database.close()
    assert settings == ["30s", "10s", "on", "decnet-master"]


@pytest.mark.parametrize(
    "text", ["mysql://h/d", "sqlite://", "sqlite:///:memory:", "nonsense", "", "postgresql+psycopg://h/d"]
)
def test_other_databases_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        database_url(text)


def test_a_password_never_shows() -> None:
    with pytest.raises(ConfigError) as refused:
        database_url("mysql://u:s3cret@h/d")
    assert "s3cret" not in refused.value.message
    assert database_url("postgresql://u:p@h/d").drivername == "postgresql+asyncpg"


async def test_a_file_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Cannot create the database"):
        await migrate(f"sqlite:///{tmp_path}/missing/x.sqlite3")


async def test_opening_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        await Store.open(f"sqlite:///{tmp_path}/x")
    assert not (tmp_path / "x").exists()


async def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no database " * 1000)
    with pytest.raises(Unavailable, match="cannot be used") as refused:
        await Store.open(f"sqlite:///{tmp_path}/x")
    assert not isinstance(refused.value, RetryLater)


@pytest.mark.postgres
async def test_a_server_that_is_away_is_to_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(RetryLater, match="does not answer"):
        await Store.open(f"postgresql://u:s3cret@/d?host={tmp_path}")


@pytest.mark.postgres
async def test_a_database_that_does_not_exist_is_no_outage(postgres_url: str) -> None:
    with pytest.raises(Unavailable) as refused:
        await Store.open(postgres_url.replace("lab_", "missing_"))
    assert not isinstance(refused.value, RetryLater)
