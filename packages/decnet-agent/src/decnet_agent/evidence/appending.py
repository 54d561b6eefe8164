"""Let several sensors write one event log: group commit.

Each offers its events and waits until they are durable. Whatever was offered while the last write ran goes with the
next one: one write, one fdatasync, in a thread. At most `MAX_PENDING` events wait; beyond that a sensor waits to offer,
and stops reading from where its events come. So a full disk stops the sensors, and loses nothing that they can read
again: the engine keeps the consoles, the taps keep their bounded buffers and count what overflows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from decnet_agent.evidence.event_log import EventLog
from decnet_core.errors import RetryLater
from decnet_core.events import Event

MAX_PENDING = 10_000
"""Events in memory, about 10 MB at the longest lines seen."""

RETRY_SECS = 1.0
"""Between two looks at a full disk."""

CHECKPOINT_SECS = 5.0

log = structlog.get_logger()


class EventAppender:
    """The one that writes the log. `run` must be running for `append` to come back."""

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._pending: list[tuple[Sequence[Event], asyncio.Future[None]]] = []
        self._pending_events = 0
        self._changed = asyncio.Condition()

    @property
    def written(self) -> int:
        """Events appended since the log was opened."""
        return self._log.written

    def cursor(self, source: str) -> str | None:
        """Return the cursor of the last event of a source that is in the log."""
        return self._log.cursor(source)

    def forget(self, source: str) -> None:
        """Drop the cursor of a source that will never speak again."""
        self._log.forget(source)

    async def append(self, events: Sequence[Event]) -> None:
        """Come back when the events are in the log and durable."""
        if not events:
            return
        done = asyncio.get_running_loop().create_future()
        async with self._changed:
            await self._changed.wait_for(lambda: self._pending_events < MAX_PENDING)
            self._pending.append((events, done))
            self._pending_events += len(events)
            self._changed.notify_all()
        await done

    async def run(self) -> None:
        """Write for ever.

        Raises:
            Unavailable: the disk fails.
        """
        while True:
            async with self._changed:
                try:
                    async with asyncio.timeout(CHECKPOINT_SECS):
                        await self._changed.wait_for(lambda: bool(self._pending))
                except TimeoutError:
                    pass
                batch, self._pending = self._pending, []
                self._pending_events = 0
                self._changed.notify_all()
            await self._commit([event for events, _ in batch for event in events])
            for _, done in batch:
                if not done.done():
                    done.set_result(None)

    async def _commit(self, events: Sequence[Event]) -> None:
        blocked = False
        while True:
            try:
                await asyncio.to_thread(self._write, events)
            except RetryLater as error:
                if not blocked:
                    log.warning("event_log.write_blocked", reason=error.message, advice=error.advice)
                blocked = True
                await asyncio.sleep(RETRY_SECS)
            else:
                if blocked:
                    log.info("event_log.write_resumed")
                return

    def _write(self, events: Sequence[Event]) -> None:
        if events:
            self._log.append(events)
            self._log.sync()
        else:
            self._log.checkpoint_if_moved()
