"""Write down what workers reported, many reports in one transaction.

Reports that come while one transaction is under way are written together by the next: a single one waits for nobody,
and a thousand cost some dozen commits instead of two each. Who sent a shard hears of its report when that is on the
disk, as with a transaction of its own. A controller that is killed in between has lost words and no deed: the worker
holds the shard, and the next heartbeat tells so.

A report that the database refuses for what it says is that worker's alone: its batch is written once more, one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from decnet_core.errors import DecnetError, RetryLater
from decnet_core.fleet import ShardReport
from decnet_master.store import Store

AT_ONCE = 64
"""Reports in a transaction: as many as shards are under way, some 640 rows of a usual fleet."""

_Waiting = tuple[ShardReport, asyncio.Future[None]]


class Recorder:
    """Writes reports down; `close` it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None

    async def record(self, report: ShardReport) -> None:
        """Write a report down, and that its worker was seen now.

        Raises:
            RetryLater, Unavailable: the database does not answer.
            DecnetError: it refuses the report.
        """
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((report, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="reports")
        await written

    async def close(self) -> None:
        """Give up what is not written."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)

    async def _write(self) -> None:
        batch: list[_Waiting] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                await self._write_batch(batch)
        finally:
            for _, written in (*batch, *self._waiting):
                written.cancel()  # where nothing came of it: whoever waits is being stopped too
            self._waiting = []

    async def _write_batch(self, batch: Sequence[_Waiting]) -> None:
        try:
            await self._store.fleet.record_all([report for report, _ in batch], datetime.now(UTC))
        except DecnetError as error:
            if len(batch) > 1 and not isinstance(error, RetryLater):
                for one in batch:
                    await self._write_batch([one])
                return
            for _, written in batch:
                if not written.done():
                    written.set_exception(error)
                    written.exception()  # who sent it may be gone
        else:
            for _, written in batch:
                if not written.done():
                    written.set_result(None)
