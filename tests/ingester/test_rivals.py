"""Real ingesters, several on one database, and a database that is killed under them."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from decnet_core.errors import ExitCode, Unavailable
from decnet_master.journal.writer import JournalWriter
from decnet_master.store import Store, migrate
from tests.ingester.conftest import PROGRAM
from tests.ingester.journals import a_line, all_rows, append, until, until_read
from tests.lab.postgres import PostgresCluster
from tests.lab.processes import Daemon
from tests.store.test_derived import derived_of, rebuilt

pytestmark = pytest.mark.slow  # each starts, kills and awaits real daemons for seconds

LINES = 20_000


@pytest.fixture
def rival(url: str, tmp_path: Path) -> Iterator[Callable[[], Daemon]]:
    """Start an ingester that shares database and journal with the others, but not their lock."""
    with ExitStack() as running:

        def start() -> Daemon:
            folder = tmp_path / f"rival-{secrets.token_hex(4)}"
            folder.mkdir()
            (folder / "journal").symlink_to(tmp_path / "journal")
            daemon = Daemon(
                [sys.executable, "-c", PROGRAM],
                log_path=folder / "ingester.log",
                env={
                    "DECNET_DATA_DIRECTORY": str(folder),
                    "DECNET_DATABASE_URL": url,
                    "DECNET_BATCH_SIZE": "50",
                    "DECNET_BATCH_MAX_WAIT_MS": "20",
                    "DECNET_CONFIG": os.devnull,
                },
            )
            running.callback(daemon.stop)
            daemon.start()
            return daemon

        yield start


def attempt(number: int) -> bytes:
    """Make a line that adds to every table."""
    fields = {"user": "root", "password": f"p{number % 97}"}
    source = f"192.0.2.{number % 50}"
    return a_line(number, event_type="credential.tried", src_ip=source, session=f"s{number % 31}", fields=fields)


def fill(writer: JournalWriter, start: int = 0, end: int = LINES) -> None:
    for at in range(start, end, 100):
        append(writer, [attempt(number) for number in range(at, min(at + 100, end))])


async def check_all(store: Store, url: str, count: int = LINES) -> None:
    """Hold rows and sums to what was written."""
    assert [row["cursor"] for row in await all_rows(store)] == [str(number) for number in range(count)]
    found = await derived_of(url)
    assert sum(row[4] for row in found["attackers"]) == count
    assert await rebuilt(url) == found


async def test_many_ingesters_on_one_database_store_each_line_once(
    store: Store, url: str, writer: JournalWriter, rival: Callable[[], Daemon]
) -> None:
    daemons = [rival() for _ in range(3)]
    for daemon in daemons:
        await asyncio.to_thread(daemon.wait_for_line, "ingester.started")
    fill(writer)
    await until_read(store, writer)
    ends = [daemon.stop() if daemon.returncode is None else daemon.returncode for daemon in daemons]
    assert set(ends) <= {0, ExitCode.CONFLICT}
    assert 0 in ends, "somebody got on"
    await check_all(store, url)


@pytest.fixture
def durable() -> Iterator[PostgresCluster]:
    """A cluster that survives being killed."""
    with PostgresCluster(durable=True) as cluster:
        yield cluster


@pytest.fixture
async def durable_url(durable: PostgresCluster) -> str:
    url = durable.create_database()
    await migrate(url)
    return url


@pytest.mark.postgres
async def test_a_killed_database_loses_and_repeats_nothing(
    durable: PostgresCluster, durable_url: str, tmp_path: Path, writer: JournalWriter
) -> None:
    daemon = Daemon(
        [sys.executable, "-c", PROGRAM],
        log_path=tmp_path / "ingester.log",
        env={
            "DECNET_DATA_DIRECTORY": str(tmp_path),
            "DECNET_DATABASE_URL": durable_url,
            "DECNET_BATCH_SIZE": "50",
            "DECNET_BATCH_MAX_WAIT_MS": "20",
            "DECNET_CONFIG": os.devnull,
        },
    )
    with daemon:
        for kill in range(4):
            fill(writer, kill * LINES // 4, (kill + 1) * LINES // 4)
            await until_past(durable_url, kill * LINES // 4 + 700)
            durable.kill()
            await asyncio.to_thread(daemon.wait_for_line, "database.awaited")
            await until_back(durable, durable_url)
        async with await Store.open(durable_url) as store:
            await until_read(store, writer)
            assert daemon.stop() == 0
            await check_all(store, durable_url)


async def until_back(cluster: PostgresCluster, url: str) -> None:
    """Start the server until it stays: it ends at once while processes of the killed one hold its memory."""

    async def answers() -> bool:
        if not cluster.is_up:
            cluster.start_again()
        try:
            async with await Store.open(url, connections=1):
                return True
        except Unavailable:
            return False

    await until(answers)


async def until_past(url: str, count: int) -> None:
    """Wait until the database answers and holds more than so many rows."""

    async def reached() -> bool:
        try:
            async with await Store.open(url, connections=1) as store:
                return await store.events.latest_seq() > count
        except Unavailable:
            return False

    await until(reached)
