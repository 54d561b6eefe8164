"""One reader of the database for all clients of the live stream.

The reader asks for what is newer than the last row it saw, at most every `POLL_SECS`, and only while somebody
listens. Each client has a bounded queue of pages: one that does not keep up is cut, never waited for, and resumes
after the last event that it has, from the database.

A client subscribes, waits until the reader reads (`live`) and only then catches up from the database, so that nothing
falls between the two; rows that come both ways are recognised by their seq.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from decnet_core.errors import RetryLater, Unavailable
from decnet_master.store import Store

POLL_SECS = 0.1
"""Half of what a person notices; one indexed query each."""

PAGE = 500
QUEUED_PAGES = 20
"""Ten thousand events that a client has not taken."""

RETRY_SECS = 1.0
LIVE_SECS = 5.0

Rows = list[dict[str, Any]]

log = structlog.get_logger()


class Subscription:
    """One client's queue; None in it means that the client is cut or the server ends."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Rows | None] = asyncio.Queue(QUEUED_PAGES + 1)
        self.cut = False

    def put(self, rows: Rows) -> bool:
        """Add a page; False when it was one too many, and the client is cut."""
        if self.cut:
            return True
        if self.queue.qsize() >= QUEUED_PAGES:
            self.end()
            return False
        self.queue.put_nowait(rows)
        return True

    def end(self) -> None:
        """Let the client read what is queued and end."""
        if not self.cut:
            self.cut = True
            self.queue.put_nowait(None)


class Fanout:
    """Reads what is new and hands it to every subscription."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._subscriptions: set[Subscription] = set()
        self._wanted = asyncio.Event()
        self._reading = asyncio.Event()

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Take part in what is read from now on."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        self._wanted.set()
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            if not self._subscriptions:
                self._wanted.clear()

    async def live(self) -> None:
        """Wait until the reader reads: what is stored from then on comes through the subscriptions.

        Raises:
            RetryLater: it does not, because the database is away.
        """
        try:
            async with asyncio.timeout(LIVE_SECS):
                await self._reading.wait()
        except TimeoutError:
            raise RetryLater("The live stream cannot read the database", "Try again when it is back.") from None

    @property
    def clients(self) -> int:
        """How many listen now."""
        return len(self._subscriptions)

    async def run(self) -> None:
        """Read until cancelled; all subscriptions end then."""
        try:
            while True:
                await self._wanted.wait()
                try:
                    await self._read_while_wanted()
                except Unavailable as error:
                    # Whoever listens would miss what is stored meanwhile: let them resume when we can read again.
                    log.warning("stream.paused", reason=error.message)
                    self._end_all()
                    await asyncio.sleep(RETRY_SECS)
        finally:
            self._end_all()

    async def _read_while_wanted(self) -> None:
        seq = await self._store.events.latest_seq()
        self._reading.set()
        try:
            while self._wanted.is_set():
                rows = await self._store.events.page(after_seq=seq, limit=PAGE)
                if rows:
                    seq = rows[-1]["seq"]
                    self._hand_out(rows)
                if len(rows) < PAGE:
                    await asyncio.sleep(POLL_SECS)
        finally:
            self._reading.clear()

    def _hand_out(self, rows: Rows) -> None:
        for subscription in self._subscriptions:
            if not subscription.put(rows):
                log.warning("stream.client_cut", queued_pages=QUEUED_PAGES)

    def _end_all(self) -> None:
        for subscription in self._subscriptions:
            subscription.end()
