"""Write down every few seconds what the listener and its workers did, for whoever looks from elsewhere.

The database takes it because the API is another process and may be on another host (`store.shipping`). One transaction
each `REPORT_SECS`, whatever the load; a database that is away costs nothing but the delay, as what happened stays in
the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from decnet_core.errors import DecnetError, Unavailable
from decnet_master.journal.backlog import Backlog, Span, count_between
from decnet_master.journal.quota import Quota, usage
from decnet_master.journal.record import Kind
from decnet_master.journal.segments import Position
from decnet_master.listener.books import Counts
from decnet_master.listener.committer import Stall, Waiting
from decnet_master.listener.ledger import PLAIN_STREAM, Ledger
from decnet_master.store.doorbook import DoorBook, ListenerState

REPORT_SECS = 5.0

LAST_REPORT_SECS = 2.0
"""At the end: what happened since the last one should not get lost, but stopping must not wait for it."""

log = structlog.get_logger()


class Progress:
    """What was appended since the start: told by the committer, asked by the reporter."""

    def __init__(self, ledger: Ledger, end: Callable[[], Position]) -> None:
        self._ledger = ledger
        self._end = end
        self.backlog = Backlog()

    def durable(self, group: Sequence[Waiting], size_bytes: int) -> None:
        """Note a group that was appended."""
        for waiting in group:
            block = waiting.block
            stream = PLAIN_STREAM if block.kind is Kind.FRAMES else block.stream
            host = block.identity.partition("@")[2]
            self._ledger.durable(host, stream, block.end, waiting.lines, block.end - block.start)
        self.backlog.add(Span(self._end(), sum(waiting.lines for waiting in group), size_bytes))


class Reporter:
    """Reports; `run` is its task."""

    def __init__(
        self,
        book: DoorBook,
        ledger: Ledger,
        progress: Progress,
        *,
        folder: Path,
        quota: Quota,
        end: Callable[[], Position],
        connections: Callable[[], int],
        stalled: Callable[[], Stall | None],
        counts: Counts,
    ) -> None:
        self._book, self._ledger, self._progress = book, ledger, progress
        self._folder, self._quota, self._end = folder, quota, end
        self._connections, self._stalled, self._counts = connections, stalled, counts
        self._began_at = end()
        self._started_at = datetime.now(UTC)
        self._position = Position(0, 0)
        self._waits_since: datetime | None = None
        self._is_failing = False
        self._is_counting = True

    async def run(self) -> None:
        """Report until cancelled, and once more then."""
        counting: asyncio.Task[None] | None = None
        try:
            await self._begin()
            counting = asyncio.create_task(self._count_older(), name="backlog")
            while True:
                await self._report()
                await asyncio.sleep(REPORT_SECS)
        finally:
            self._is_counting = False
            if counting is not None:
                counting.cancel()
            with contextlib.suppress(DecnetError, TimeoutError):
                async with asyncio.timeout(LAST_REPORT_SECS):
                    await self._write()

    async def _begin(self) -> None:
        """Say that we listen."""
        while True:
            try:
                self._position = Position(*await self._book.position())
                await self._book.begin(await self._state())
                break
            except DecnetError as error:
                self._failed(error)
                await asyncio.sleep(REPORT_SECS)

    async def _count_older(self) -> None:
        """Count what waited for the ingester already: gigabytes perhaps, so we report beside it."""
        with contextlib.suppress(OSError):  # the ingester reads the same disk, and will say so
            older = await asyncio.to_thread(
                count_between, self._folder, self._position, self._began_at, lambda: self._is_counting
            )
            self._progress.backlog.precede(older)

    async def _report(self) -> None:
        try:
            await self._write()
        except DecnetError as error:
            self._failed(error)
        else:
            if self._is_failing:
                self._is_failing = False
                log.info("shipping.report_recovered")

    async def _write(self) -> None:
        workers, streams = self._ledger.entries()
        self._moved(Position(*await self._book.position()))
        await self._book.report(workers, streams, await self._state())
        self._ledger.written(workers, streams)

    def _moved(self, position: Position) -> None:
        """Note how far the ingester is."""
        backlog = self._progress.backlog
        backlog.stored(position)
        if not backlog.bytes:
            self._waits_since = None
        elif position != self._position or self._waits_since is None:
            self._waits_since = datetime.now(UTC)
        self._position = position

    async def _state(self) -> ListenerState:
        end, backlog, stall = self._end(), self._progress.backlog, self._stalled()
        try:
            used = await asyncio.to_thread(usage, self._folder)
        except OSError as cause:
            raise Unavailable(f"The journal's disk cannot be read: {cause.strerror}", "Look at that disk.") from cause
        return ListenerState(
            started_at=self._started_at,
            reported_at=datetime.now(UTC),
            journal_segment=end.segment,
            journal_offset=end.offset,
            journal_bytes=used.journal_bytes,
            quota_bytes=self._quota.limit_bytes,
            free_bytes=used.free_bytes,
            min_free_bytes=self._quota.min_free_bytes,
            stalled=None if stall is None else f"{stall.reason}. {stall.advice}",
            backlog_lines=backlog.lines,
            backlog_bytes=backlog.bytes,
            waits_since=self._waits_since,
            connections=self._connections(),
            accepted=self._counts.accepted,
            handshakes_refused=self._counts.handshakes_refused,
            refused=self._counts.refused,
            superseded=self._counts.superseded,
            protocol_errors=self._counts.protocol_errors,
        )

    def _failed(self, error: DecnetError) -> None:
        if not self._is_failing:
            self._is_failing = True
            log.warning("shipping.report_failed", reason=error.message, advice=error.advice)
