from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from decnet_master.settings import MasterSettings
from decnet_master.store import Store
from decnet_master.swarmctl import app as swarmctl
from tests.swarm.master import Template, controller_client, port_of, running


@pytest.fixture
def settings(template: Template, tmp_path: Path) -> MasterSettings:
    """A master's installation of this test alone."""
    return template.copy(tmp_path)


@pytest.fixture
async def store(settings: MasterSettings) -> AsyncIterator[Store]:
    async with await Store.open(settings.database) as store:
        yield store


@pytest.fixture
async def swarm(settings: MasterSettings) -> AsyncIterator[swarmctl.App]:
    """The controller and the enrolment endpoint, serving."""
    app = swarmctl.build(settings)
    async with running(app):
        yield app


@pytest.fixture
async def controller(settings: MasterSettings, swarm: swarmctl.App) -> AsyncIterator[httpx.AsyncClient]:
    """A client that shows the controller's secret."""
    async with controller_client(settings, port_of(swarm.controller_socket)) as client:
        yield client
