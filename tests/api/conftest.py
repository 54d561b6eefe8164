from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from decnet_master.api import app as api
from decnet_master.settings import MasterSettings
from decnet_master.store import Store

from tests.store.samples import new
from tests.swarm.master import Template, port_of, running


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return Template.make(tmp_path_factory.mktemp("master"))


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
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_of(app.socket)}", trust_env=False) as client,
    ):
        yield client


@pytest.fixture
async def admin(anyone: httpx.AsyncClient, template: Template) -> httpx.AsyncClient:
    """The same client, logged in."""
    answer = await anyone.post("/api/v1/auth/login", json={"username": "admin", "password": template.password})
    assert answer.status_code == 200, answer.text
    anyone.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
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
            await self._store.ingest.append(rows, [], type(at)(at.segment, at.offset + 1), at)


@pytest.fixture
def feed(store: Store) -> Feed:
    return Feed(store)
