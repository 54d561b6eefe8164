from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from decnet_master.journal.writer import JournalWriter
from decnet_master.store import Store, migrate
from tests.lab.processes import Daemon

SEGMENT_BYTES = 256 << 10
"""Small, so that a test's lines fill many."""

PROGRAM = """
import asyncio
from decnet_core import logs
from decnet_core.program import run_program
from decnet_master.ingester.app import build
from decnet_master.settings import MasterSettings

def main():
    settings = MasterSettings.load()
    logs.configure("ingester", level="info")
    asyncio.run(build(settings).run())

run_program(main)
"""


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy: ten times as fast as migrating again."""
    path = tmp_path_factory.mktemp("template") / "decnet.sqlite3"
    asyncio.run(migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def url(request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path) -> str:
    """A database of this test alone, migrated."""
    if request.param == "sqlite":
        shutil.copy(sqlite_template, tmp_path / "decnet.sqlite3")
        return f"sqlite:///{tmp_path}/decnet.sqlite3"
    url: str = request.getfixturevalue("postgres_url")
    await migrate(url)
    return url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with await Store.open(url) as store:
        yield store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The journal's folder, where a daemon of this test's data directory looks for it."""
    return tmp_path / "journal"


@pytest.fixture
def writer(folder: Path) -> Iterator[JournalWriter]:
    writer = JournalWriter.open(folder, segment_bytes=SEGMENT_BYTES)
    yield writer
    writer.close()


@pytest.fixture
def another_daemon(url: str, tmp_path: Path) -> Iterator[Callable[[], Daemon]]:
    """Make the ingester as a process, not started yet; all of one test share the data directory and the database."""
    environment = {
        "DECNET_DATA_DIRECTORY": str(tmp_path),
        "DECNET_DATABASE_URL": url,
        "DECNET_BATCH_SIZE": "50",
        "DECNET_BATCH_MAX_WAIT_MS": "20",
        "DECNET_CONFIG": os.devnull,
    }
    with ExitStack() as running:

        def make() -> Daemon:
            name = f"ingester-{secrets.token_hex(4)}.log"
            daemon = Daemon([sys.executable, "-c", PROGRAM], log_path=tmp_path / name, env=environment)
            running.callback(daemon.stop)
            return daemon

        yield make


@pytest.fixture
def daemon(another_daemon: Callable[[], Daemon]) -> Daemon:
    """The ingester as a process, not started yet."""
    return another_daemon()
