from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from decnet_master.store import Store, migrate


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of this test alone, without a schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/decnet.sqlite3"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy: ten times as fast as migrating again."""
    path = tmp_path_factory.mktemp("template") / "decnet.sqlite3"
    asyncio.run(migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture
async def url(empty_url: str, sqlite_template: Path) -> str:
    """A database of this test alone, migrated."""
    if empty_url.startswith("sqlite"):
        shutil.copy(sqlite_template, empty_url.removeprefix("sqlite:///"))
    else:
        await migrate(empty_url)
    return empty_url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with await Store.open(url) as store:
        yield store
