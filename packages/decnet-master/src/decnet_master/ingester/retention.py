"""Let go of events that are older than the operator keeps them, once an hour.

What goes and how is `store.slices`'s; this decides when. A day goes whole, so an event stays for `days` days and what
was left of its own. The events are stored meanwhile, so a database that does not answer is no reason to end.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from decnet_core.errors import Unavailable
from decnet_master.store import Store
from decnet_master.store.values import micros

EVERY_SECS = 3600.0

log = structlog.get_logger()


async def retain(store: Store, days: int) -> None:
    """Expire old days until cancelled."""
    while True:
        try:
            await expire(store, days)
        except Unavailable as cause:
            log.warning("database.awaited", reason=cause.message, advice=cause.advice, retry_in_secs=EVERY_SECS)
        await asyncio.sleep(EVERY_SECS)


async def expire(store: Store, days: int) -> int:
    """Let go of the days that ended more than so many days ago.

    Returns:
        how many events are gone.

    Raises:
        Unavailable, RetryLater: the database does not answer.
    """
    before = datetime.now(UTC) - timedelta(days=days)
    count = await store.slices.expire(micros(before))
    if count:
        log.info("events.expired", count=count, before=before.isoformat(timespec="seconds"))
    return count
