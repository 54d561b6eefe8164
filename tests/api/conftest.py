from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from decnet_master import secret_files
from decnet_master.api import app as api
from decnet_master.api.access import Access
from decnet_master.settings import MasterSettings
from decnet_master.store import Load, Store
from tests.store.samples import new
from tests.swarm.master import Template, plain_client, port_of, running


@pytest.fixture
def settings(template: Template, tmp_path: Path) -> MasterSettings:
    return template.copy(tmp_path)


@pytest.fixture
async def store(settings: MasterSettings) -> AsyncIterator[Store]:
    async with await Store.open(settings.database) as store:
        yield store


@pytest.fixture
async def anyone(settings: MasterSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A client that has not logged in, of an API that serves."""
    app = api.build(settings)
    async with (
        running(app),
        plain_client(port_of(app.socket)) as client,
    ):
        yield client


@pytest.fixture
async def admin(anyone: httpx.AsyncClient, store: Store, settings: MasterSettings) -> httpx.AsyncClient:
    """The same client with a session; a login by password, which is slow on purpose, is tested once."""
    access = Access(store, secret_files.read(settings.api_secret_file), timedelta(minutes=5))
    session = access.open_session(await store.users.get("admin"), datetime.now(UTC))
    anyone.headers["authorization"] = f"Bearer {session.token}"
    return anyone


class Feed:
    """Stores events as the ingester does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = asyncio.Lock()

    async def add(self, *numbers: int, **changes: object) -> None:
        async with self._turn:
            at = await self._store.ingest.position()
            rows = [new(number, **changes) for number in numbers]
            await self._store.ingest.append(Load.of(rows), [], type(at)(at.segment, at.offset + 1), at)


@pytest.fixture
def feed(store: Store) -> Feed:
    return Feed(store)
