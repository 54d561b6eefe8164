"""What becomes of deckies without anybody's command: they are reset when their visitors have gone, and mutate.

Reset is a decky that had a visitor since it was made, and none for as long as the operator said: what was left there is
no tell for the next, and no harm. Until then whoever comes back finds the machine as he left it; each of his visits
begins that time anew. At each look some of those that are due are made anew, so that no fleet ever blinks as one.

One decky mutates, of those that the fleet file leaves open, when none has for as long as the operator said. Which, and
what it gains or loses, is drawn.

Both are the controller's own requests for a change (`changes`) and held to the same rules: a decky with a visitor is
left alone, and so is a worker that is away. All that it needs to know is in the database, so a controller that is
killed and started again goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import structlog

from decnet_core.errors import Conflict, DecnetError
from decnet_master.store import Store
from decnet_master.swarmctl.changes import Changes
from decnet_master.swarmctl.fleet_messages import MutateRequest, ResetRequest
from decnet_master.swarmctl.hosts import active_hosts

LOOK_SECS = 600.0
"""Nobody minds when within ten minutes."""

RESET_AT_ONCE = 5
"""Deckies at a look: of a thousand that were visited on one day the last is reset a day and a half after the first."""

log = structlog.get_logger()


async def keep_alive(work: Callable[[], Awaitable[object]], *, look_secs: float = LOOK_SECS) -> NoReturn:
    """Do a piece of it for ever; what cannot be done now is told, and tried at the next look."""
    while True:
        try:
            await work()
        except DecnetError as error:
            log.warning("lifecycle.postponed", reason=error.message, advice=error.advice)
        await asyncio.sleep(look_secs)


async def reset_some(store: Store, changes: Changes, idle: timedelta) -> tuple[str, ...]:
    """Reset some that had no visitor for so long, and return their names.

    Raises:
        DecnetError: the database is away, or the fleet has changed meanwhile.
    """
    active = {host.name for host in await active_hosts(store)}
    due = await store.fleet.left_alone_since(datetime.now(UTC) - idle)
    names = tuple(name for host, name in due if host in active)[:RESET_AT_ONCE]
    if names:
        await changes.finish(await changes.begin(ResetRequest(names=names)))
    return names


async def mutate_one(store: Store, changes: Changes, every: timedelta) -> tuple[str, ...]:
    """Let one mutate if none has for so long, and return its name; nothing if none may.

    Raises:
        DecnetError: the database is away, or the fleet has changed meanwhile.
    """
    now, fleet = datetime.now(UTC), await store.fleet.current()
    mutations = [decky.terms.mutated_at for decky in fleet if decky.terms.mutated_at is not None]
    if not any(decky.terms.sometimes for decky in fleet) or (mutations and now - max(mutations) < every):
        return ()
    try:
        begun = await changes.begin(MutateRequest(seed=int(now.timestamp())))
    except Conflict:  # all that could are in use, or did so lately
        return ()
    return (await changes.finish(begun)).changed
