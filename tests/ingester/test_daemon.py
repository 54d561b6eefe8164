from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

from decnet_core.errors import ExitCode
from decnet_master.journal.writer import JournalWriter
from decnet_master.store import Store
from tests.ingester.journals import a_line, all_rows, append, until, until_read
from tests.lab.postgres import PostgresCluster
from tests.lab.processes import Daemon

pytestmark = pytest.mark.slow  # each starts, kills and awaits real daemons for seconds


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _largest_file_bytes(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.glob("decnet.sqlite3*"))


@pytest.mark.parametrize(("lines", "kills"), [(5_000, 2), (50_000, 6)])
async def test_killed_again_and_again_it_stores_each_line_once_and_in_order(
    store: Store, writer: JournalWriter, daemon: Daemon, lines: int, kills: int
) -> None:
    for start in range(0, lines, 100):
        append(writer, [a_line(n) for n in range(start, start + 100)])
    chance = random.Random(1)
    for kill in range(kills):
        daemon.start()
        goal = (kill + 1) * lines // (kills + 2) + chance.randrange(500)

        async def reached(goal: int = goal) -> bool:
            return await store.events.latest_seq() >= goal

        await until(reached)
        daemon.kill()
    assert await store.ingest.position() < writer.end, "every kill hit it at work"
    daemon.start()
    await until_read(store, writer)
    assert daemon.stop() == 0
    assert [row["cursor"] for row in await all_rows(store)] == [str(n) for n in range(lines)]
    assert await store.ingest.dead_letter_count() == 0


async def test_it_idles_small_and_ends_on_a_signal(store: Store, writer: JournalWriter, daemon: Daemon) -> None:
    append(writer, [a_line(1)])
    daemon.start()
    await until_read(store, writer)
    resident_mb = _resident_mb(daemon.pid)
    print(f"ingester, idle: {resident_mb:.0f} MB resident")
    assert resident_mb < 100
    assert daemon.stop() == 0
    assert "ingester.stopped" in daemon.log_text()


async def test_a_second_ingester_is_refused(daemon: Daemon, another_daemon: Callable[[], Daemon]) -> None:
    daemon.start()
    await asyncio.to_thread(daemon.wait_for_line, "ingester.started")
    second = another_daemon()
    second.start()
    assert await asyncio.to_thread(second.wait) == ExitCode.CONFLICT
    assert "Another ingester works on this journal" in second.log_text()
    daemon.kill()  # the kernel lets go of the lock
    daemon.start()
    await asyncio.to_thread(daemon.wait_for_line, "ingester.started")


async def test_without_a_data_directory_it_says_what_to_do(daemon: Daemon, tmp_path: Path) -> None:
    tmp_path.joinpath("ingester.lock").mkdir()
    daemon.start()
    assert await asyncio.to_thread(daemon.wait) == ExitCode.UNAVAILABLE
    assert "what to do: Run as the user whom it belongs to" in daemon.log_text()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_it_waits_for_a_full_disk(store: Store, writer: JournalWriter, daemon: Daemon, tmp_path: Path) -> None:
    """A limit on the size of its files is to the ingester what a full disk is; it is lifted from outside."""
    append(writer, [a_line(0)])
    daemon.start()
    await until_read(store, writer)
    room_bytes = _largest_file_bytes(tmp_path) + (1 << 16)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (room_bytes, resource.RLIM_INFINITY))
    for start in range(1, 2001, 100):
        append(writer, [a_line(n, text="x" * 500) for n in range(start, start + 100)])
    await asyncio.to_thread(daemon.wait_for_line, "database.awaited")
    assert await store.ingest.position() < writer.end
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await until_read(store, writer)
    assert [row["cursor"] for row in await all_rows(store)] == [str(n) for n in range(2001)]
    await asyncio.to_thread(daemon.wait_for_line, "database.returned")
    assert daemon.stop() == 0


@pytest.mark.postgres
@pytest.mark.parametrize("url", ["postgres"], indirect=True)
async def test_it_waits_for_a_database_that_goes_away(
    postgres: PostgresCluster, url: str, store: Store, writer: JournalWriter, daemon: Daemon
) -> None:
    daemon.start()
    await asyncio.to_thread(daemon.wait_for_line, "ingester.started")
    database = make_url(url).database
    admin = await asyncpg.connect(user="postgres", database="postgres", host=str(postgres.socket_folder))
    try:
        for n in range(20):  # connections cut at any moment
            append(writer, [a_line(n)])
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database)
        await admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS false')
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database)
        append(writer, [a_line(20)])
        await asyncio.to_thread(daemon.wait_for_line, "not currently accepting connections")
        await admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS true')
    finally:
        await admin.close()
    await until_read(store, writer)
    assert [row["cursor"] for row in await all_rows(store)] == [str(n) for n in range(21)]
    assert "database.returned" in daemon.log_text()
    assert daemon.stop() == 0
