"""Keep running what the master last asked for: after a start, and when a decky has ended and nobody brings it back.

The engine's restart policy brings back most: a crashed init, an engine that was stopped and started. Measured not to be
among them: an engine that was killed. Docker 20.10 then takes the containers for ended by themselves and leaves them.

A decky counts as ended when two looks in a row find no running container of its. Then the whole shard is applied again,
which changes nothing else; while it does not succeed, ever more rarely. A master's call comes first: nothing is looked
for while a shard is being applied. Who wants a decky to rest tells the master, not Docker.

Now and then the LAN is asked whether another machine has a decky's address: one that was off when the address was
taken, or came later with an address of its own. That is told in the status, and mended at the next apply.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

import structlog

from decnet_agent.deploying.execution import Executor
from decnet_agent.engine.labels import LABEL_DECKY
from decnet_agent.engine.watch import EngineWatch
from decnet_core.errors import DecnetError

LOOK_SECS = 2.0
"""One short call to the engine. A restart by its own policy takes 0.1 s the first time."""

FIRST_ENQUIRY_SECS = 30.0
"""After a start everything else comes first, above all what the master calls for."""

ENQUIRY_SECS = 600.0
"""A container that lives for a second, and three small frames for each decky."""

FIRST_RETRY_SECS = 1.0
LONGEST_RETRY_SECS = 60.0

log = structlog.get_logger()


async def keep(executor: Executor, watch: EngineWatch) -> NoReturn:
    """Keep it so for ever; the first time without looking, for what runs may be made of something older."""
    delay_secs = 0.0
    enquire_at = asyncio.get_running_loop().time() + FIRST_ENQUIRY_SECS
    while True:
        await asyncio.sleep(delay_secs)
        ok = await _apply(executor)
        delay_secs = FIRST_RETRY_SECS if ok else min(max(delay_secs, FIRST_RETRY_SECS) * 2, LONGEST_RETRY_SECS)
        if ok is not None:
            enquire_at = await _until_one_has_ended(executor, watch, enquire_at)


async def _apply(executor: Executor) -> bool | None:
    """Apply what was last asked for; tell whether all of it runs, or None when it could not be tried."""
    shard = executor.shard
    if shard is None:
        return True
    try:
        report = await executor.apply(shard)
    except DecnetError as error:
        log.warning("shard.reapply_failed", reason=error.message, advice=error.advice)
        return None
    log.info("shard.reapplied", generation=report.generation, ok=report.ok)
    return report.ok


async def _until_one_has_ended(executor: Executor, watch: EngineWatch, enquire_at: float) -> float:
    """Return when the LAN is to be asked next."""
    missing: frozenset[str] = frozenset()
    now = asyncio.get_running_loop().time
    while True:
        before, missing = missing, await _missing(executor, watch)
        if before & missing:
            return enquire_at
        if now() >= enquire_at:
            await _enquire(executor)
            enquire_at = now() + ENQUIRY_SECS
        await asyncio.sleep(LOOK_SECS)


async def _enquire(executor: Executor) -> None:
    try:
        await executor.look_around()
    except DecnetError as error:
        log.warning("lan.probe_failed", reason=error.message, advice=error.advice)


async def _missing(executor: Executor, watch: EngineWatch) -> frozenset[str]:
    if executor.busy or executor.shard is None:
        return frozenset()
    try:
        running = {item.labels.get(LABEL_DECKY) for item in await watch.containers(LABEL_DECKY) if item.running}
    except DecnetError:  # the collector tells that the engine is away
        return frozenset()
    return frozenset(spec.name for spec in executor.shard.deckies if spec.name not in running)
