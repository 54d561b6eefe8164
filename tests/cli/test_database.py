"""`decnet-master db`."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from decnet_core.errors import ExitCode
from decnet_master.journal.reader import Position
from decnet_master.store import Load, NewEvent, Store, migrate
from tests.cli.conftest import Cli
from tests.store.samples import an_event
from tests.swarm.master import settings_in


@pytest.fixture
def filled(bare: Cli) -> Cli:
    """A database with an event of ten days ago and one of now, and no daemon."""
    url = settings_in(bare.folder).database
    settings_in(bare.folder).data_directory.mkdir(parents=True, exist_ok=True)

    async def fill() -> None:
        await migrate(url)
        async with await Store.open(url) as store:
            for number, days in enumerate((10, 0)):
                at = await store.ingest.position()
                row = NewEvent(an_event(number), "w", datetime.now(UTC) - timedelta(days=days))
                await store.ingest.append(Load.of([row]), [], Position(1, number), at)

    asyncio.run(fill())
    return bare


def test_rebuild_counts_all_events(filled: Cli) -> None:
    assert json.loads(filled("db", "rebuild", "--json").out) == {"events": 2}
    assert filled("db", "rebuild").out == "Counted 2 events anew.\n"


def test_retention_goes_by_the_setting_or_the_option(filled: Cli) -> None:
    refused = filled("db", "retention")
    assert refused.code == ExitCode.CONFIG
    assert "retention-days" in refused.err
    assert filled("db", "retention", "--days", "0").code == ExitCode.USAGE
    assert json.loads(filled("db", "retention", "--days", "30", "--json").out) == {"expired": 0, "days": 30}
    filled.configure(retention_days=7)
    assert json.loads(filled("db", "retention", "--json").out) == {"expired": 1, "days": 7}
    assert filled("db", "retention").out == "0 events are gone, those of the last 7 days are kept.\n"
