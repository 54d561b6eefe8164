"""Group commit: one task that makes every waiting block durable with one append, then tells each owner.

While an append runs in its thread, new blocks gather; so the more there is to do, the larger the groups, and a disk
that syncs a hundred times a second still takes everything.

A journal that refuses (a full or broken disk, its quota) is asked again with back-off for as long as it takes; nobody
is told anything meanwhile, so nobody forgets anything, `full` stops the connections from reading more, and `stalled`
says why.

An owner that cannot be told loses its connection and nothing else: the journal has its block, the others go on.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from decnet_core.errors import LocalProtocolError, RetryLater
from decnet_master.journal.record import Block, Key
from decnet_master.journal.writer import JournalWriter

GROUP_BYTES = 4 << 20
"""One append; larger groups win nothing and delay the first acknowledgement in them."""

FULL_BYTES = 8 << 20
"""Blocks in memory over all connections: one group that is written and one that gathers meanwhile."""

BLOCK_BYTES = 512
"""What a block costs beside its data (measured: 400). A hole of one byte takes nine on the wire, and a peer that sent a
window full of them would else cost gigabytes."""

FIRST_DELAY_SECS = 0.1
LONGEST_DELAY_SECS = 5.0

log = structlog.get_logger()


@dataclass(slots=True)
class CommitCounts:
    """What the committer has done since it started."""

    appends: int = 0
    blocks: int = 0
    bytes: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A block on its way.

    Attributes:
        block: it.
        key: whose it is.
        lines: how many it holds.
        cost_bytes: what it takes of the memory.
        done, rejected, broken: as for `Committer.submit`.
    """

    block: Block
    key: Key
    lines: int
    cost_bytes: int
    done: Callable[[Block], None]
    rejected: Callable[[Block], None]
    broken: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Stall:
    """Why the journal takes nothing, since when by the monotonic clock, and what to do about it."""

    reason: str
    advice: str
    since: float


Durable = Callable[[Sequence[Waiting], int], None]
"""Told of each group, and by how many bytes the journal grew."""


class Committer:
    """Owns the journal's writer; `run` is its task."""

    def __init__(self, writer: JournalWriter, durable: Durable = lambda _group, _size_bytes: None) -> None:
        self._writer = writer
        self._durable = durable
        self._queue: deque[Waiting] = deque()
        self._open: dict[Key, int] = {}  # blocks that wait or are being appended
        self._settled: dict[Key, asyncio.Event] = {}
        self._more = asyncio.Event()
        self.waiting_bytes = 0
        self.stalled: Stall | None = None
        self.counts = CommitCounts()
        self.on_room: Callable[[], None] = lambda: None
        """Called after each group: connections may read again."""

    @property
    def full(self) -> bool:
        """Whether connections should stop reading."""
        return self.waiting_bytes >= FULL_BYTES or self.stalled is not None

    def durable_offset(self, key: Key) -> int:
        """Up to where a stream is durable; call it once the stream is `settled`."""
        return self._writer.durable_offset(*key)

    def submit(
        self,
        block: Block,
        lines: int,
        done: Callable[[Block], None],
        rejected: Callable[[Block], None],
        broken: Callable[[], None] = lambda: None,
    ) -> None:
        """Have a block made durable.

        Args:
            block: it follows the stream's last one.
            lines: how many it holds.
            done: called on the loop with a block up to whose end the stream is durable; of several blocks that were
                committed together, with the last one alone.
            rejected: called on the loop when the journal cannot take the block.
            broken: ends the owner; called on the loop after `done` or `rejected` failed.
        """
        key, cost_bytes = block.key, BLOCK_BYTES + len(block.data)
        self._queue.append(Waiting(block, key, lines, cost_bytes, done, rejected, broken))
        self._open[key] = self._open.get(key, 0) + 1
        self.waiting_bytes += cost_bytes
        self._more.set()

    async def settled(self, key: Key) -> None:
        """Wait until no block of the stream waits any more."""
        while self._open.get(key):
            await self._settled.setdefault(key, asyncio.Event()).wait()

    async def run(self) -> None:
        """Commit for ever; when cancelled, an append under way is finished first."""
        with ThreadPoolExecutor(1, thread_name_prefix="journal") as thread:
            while True:
                await self._more.wait()
                self._more.clear()
                while self._queue:
                    await self._commit(self._next_group(), thread)

    def _next_group(self) -> list[Waiting]:
        group: list[Waiting] = []
        size = 0
        while self._queue and size < GROUP_BYTES:
            group.append(self._queue.popleft())
            size += group[-1].cost_bytes
        return group

    async def _commit(self, group: list[Waiting], thread: ThreadPoolExecutor) -> None:
        try:
            size_bytes = await self._append([waiting.block for waiting in group], thread)
        except LocalProtocolError as error:
            if len(group) == 1:
                reason, identity = error.message, group[0].block.identity
                log.error("block.rejected", reason=reason, identity=identity)  # noqa: TRY400 -- told whole
                self._settle(group[0])
                _tell(group[0], group[0].rejected)
                return
            for waiting in group:  # one bad block must not take the others' connections down
                await self._commit([waiting], thread)
            return
        self.counts.appends += 1
        self.counts.blocks += len(group)
        self.counts.bytes += sum(len(waiting.block.data) for waiting in group)
        self._durable(group, size_bytes)
        last = {waiting.key: waiting for waiting in group}
        for waiting in group:
            self._settle(waiting)
        for waiting in last.values():
            _tell(waiting, waiting.done)
        self.on_room()

    async def _append(self, blocks: list[Block], thread: ThreadPoolExecutor) -> int:
        delay_secs = FIRST_DELAY_SECS
        while True:
            attempt = asyncio.get_running_loop().run_in_executor(thread, self._writer.append, blocks)
            try:
                size_bytes = await asyncio.shield(attempt)
            except asyncio.CancelledError:
                await asyncio.wait({attempt})  # the writer must not be closed under it
                raise
            except RetryLater as error:
                if self.stalled is None:
                    log.warning("journal.append_failed", reason=error.message, advice=error.advice)
                since = time.monotonic() if self.stalled is None else self.stalled.since
                self.stalled = Stall(error.message, error.advice, since)
                self.counts.failures += 1
                await asyncio.sleep(delay_secs)
                delay_secs = min(delay_secs * 2, LONGEST_DELAY_SECS)
                continue
            if self.stalled is not None:
                log.info("journal.append_recovered")
                self.stalled = None
            return size_bytes

    def _settle(self, waiting: Waiting) -> None:
        self.waiting_bytes -= waiting.cost_bytes
        left = self._open.pop(waiting.key) - 1
        if left:
            self._open[waiting.key] = left
        elif waiting.key in self._settled:
            self._settled.pop(waiting.key).set()


def _tell(waiting: Waiting, tell: Callable[[Block], None]) -> None:
    """Tell an owner; one that cannot take it is ended, for this task serves all of them.

    The protocol's machine raises LocalProtocolError, a transport in the wrong state RuntimeError.
    """
    block = waiting.block
    try:
        tell(block)
    except (LocalProtocolError, RuntimeError) as error:
        log.error("owner.failed", identity=block.identity, stream=block.stream, reason=str(error))  # noqa: TRY400
        waiting.broken()
