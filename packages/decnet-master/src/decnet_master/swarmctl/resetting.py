"""Reset deckies whose visitors have gone: what they left is no tell for the next, and no harm.

A decky is due that had a visitor since it was made, and none for as long as the operator said. Until then whoever comes
back finds the machine as he left it; each of his visits begins that time anew. At each look some of those that are due
are made anew, so that no fleet ever blinks as one; what was recorded is at the master, or on its way, as ever.

It is the controller's own request for a reset (`changes`): a decky that gets a visitor meanwhile is left alone, and so
is a worker that is away. What it needs to know is in the database, so a controller that is killed and started again
goes on.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import structlog

from decnet_core.errors import DecnetError
from decnet_master.store import Store
from decnet_master.swarmctl.changes import Changes
from decnet_master.swarmctl.fleet_messages import ResetRequest
from decnet_master.swarmctl.hosts import active_hosts

LOOK_SECS = 600.0
"""Nobody minds when within ten minutes."""

AT_ONCE = 5
"""Deckies at a look: of a thousand that were visited on one day the last is reset a day and a half after the first."""

log = structlog.get_logger()


async def reset_the_idle(store: Store, changes: Changes, idle: timedelta, *, look_secs: float = LOOK_SECS) -> NoReturn:
    """Do so for ever.

    Args:
        store: open.
        changes: changes the fleet.
        idle: for so long a decky had no visitor.
        look_secs: between two looks.
    """
    while True:
        try:
            await reset_some(store, changes, idle)
        except DecnetError as error:
            log.warning("resets.postponed", reason=error.message, advice=error.advice)
        await asyncio.sleep(look_secs)


async def reset_some(store: Store, changes: Changes, idle: timedelta) -> tuple[str, ...]:
    """Reset some that are due, and return their names.

    Raises:
        DecnetError: the database is away, or the fleet has changed meanwhile.
    """
    active = {host.name for host in await active_hosts(store)}
    due = await store.fleet.left_alone_since(datetime.now(UTC) - idle)
    names = tuple(name for host, name in due if host in active)[:AT_ONCE]
    if names:
        await changes.finish(await changes.begin(ResetRequest(names=names)))
    return names
