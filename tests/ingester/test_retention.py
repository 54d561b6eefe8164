from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from decnet_master.ingester.retention import expire, retain
from decnet_master.journal.reader import Position
from decnet_master.store import Load, NewEvent, Store
from tests.ingester.journals import until
from tests.store.samples import an_event


async def fill(store: Store, *days_ago: int) -> None:
    before = await store.ingest.position()
    for number, days in enumerate(days_ago, 1):
        row = NewEvent(an_event(number), "w", datetime.now(UTC) - timedelta(days=days))
        after = Position(1, number)
        await store.ingest.append(Load.of([row]), [], after, before)
        before = after


async def test_a_day_is_kept_until_it_ended_so_many_days_ago(store: Store) -> None:
    await fill(store, 9, 8, 7, 1, 0)
    assert await expire(store, 7) == 2
    assert await expire(store, 7) == 0
    assert [row["cursor"] for row in await store.events.page()] == ["3", "4", "5"]


async def test_it_goes_on_by_itself(store: Store) -> None:
    await fill(store, 9, 0)
    task = asyncio.create_task(retain(store, 7))

    async def gone() -> bool:
        return len(await store.events.page()) == 1

    await until(gone)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
