"""Watch for workers that fall silent; the API does it because it is what shows them.

Several API processes may do it at once: the database lets one of them tell each silence (`store.silence`).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from decnet_core.errors import Unavailable
from decnet_master.store import Store

LOOK_SECS = 2.0
"""One query; less than the listener's reports are apart."""

log = structlog.get_logger()


async def watch(store: Store, after: timedelta, every_secs: float = LOOK_SECS) -> None:
    """Watch until cancelled.

    Args:
        store: open.
        after: how long nothing must have come.
        every_secs: between two looks.
    """
    is_failing = False
    while True:
        try:
            settled = await store.silences.settle(datetime.now(UTC), after)
        except Unavailable as error:
            if not is_failing:
                log.warning("silence.unwatched", reason=error.message, advice=error.advice)
            is_failing = True
        else:
            is_failing = False
            for host in settled.silent:
                log.warning("worker.fell_silent", host=host, after_secs=int(after.total_seconds()))
            for host in settled.heard:
                log.info("worker.came_back", host=host)
        await asyncio.sleep(every_secs)
