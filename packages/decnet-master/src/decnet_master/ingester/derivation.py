"""Finish what somebody began: the derived tables are made anew in pieces, and who does it may be killed.

`store.derivation` says how. An update (`decnet-master init`) and `db rebuild` do it by themselves; here is only looked
whether one of them did not come to its end.
"""

from __future__ import annotations

import asyncio

import structlog

from decnet_core.errors import Unavailable
from decnet_master.store import Store

EVERY_SECS = 60.0
"""One row is read."""

log = structlog.get_logger()


async def finish(store: Store, every_secs: float = EVERY_SECS) -> None:
    """Look until cancelled whether the tables are behind, and let them catch up."""
    while True:
        try:
            if count := await store.derivation.catch_up():
                log.info("derived.rebuilt", events=count)
        except Unavailable as cause:
            log.warning("database.awaited", reason=cause.message, advice=cause.advice, retry_in_secs=every_secs)
        await asyncio.sleep(every_secs)
