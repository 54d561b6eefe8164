"""Make workers as they shall be, without anybody's command: what was away, restarted or lost something converges.

A worker that differs from what is placed on it (`drift`) is sent its shard of the newest generation, which changes
there nothing but what differs. One attempt at a time for each worker, in the line that operators' commands stand in
too, and only when that line is empty; so a command is never overtaken, and an attempt that one overtakes is none.
`AT_ONCE` in all leave the rest of the places to commands.

After a failure it waits, twice as long each time and never in step with others. A worker that took its shard and
differs all the same at the next look has failed too: a decky that ends whenever it is started is not started for ever.
After `GIVES_UP_AFTER` failures for the same reason it says so, once in the log and from then on in `check` and health,
and goes on at the longest pause: what the operator mends converges all the same. One that was unreachable and is back
is tried at once.

What it knows of failures lies in the database (`store.repairs`), everything else is derived from what workers say: a
controller that is killed and started again goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random

import structlog

from decnet_core.errors import Conflict, DecnetError
from decnet_core.fleet import DeckyPhase, Shard, ShardReport
from decnet_core.logs import shown
from decnet_master.store import Host, Repair, Store, WorkerFleet
from decnet_master.store.repairs import GIVES_UP_AFTER
from decnet_master.swarmctl.dispatch import SENT_AT_ONCE, Dispatcher
from decnet_master.swarmctl.drift import Cure, Deviation, cure

AT_ONCE = SENT_AT_ONCE // 4
"""Of the shards that may be under way: an operator's command finds places."""

FIRST_PAUSE_SECS = 30.0
LONGEST_PAUSE_SECS = 3600.0

NAMED = 5
"""Differences in a line of the log."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Look:
    """What was found on a worker, compared with what is placed on it in the newest generation."""

    host: Host
    newest: int
    fleet: WorkerFleet
    found: tuple[Deviation, ...]


class Reconciler:
    """Sends shards to workers that differ.

    Args:
        store: open.
        dispatcher: has the workers' lines.
        draw: of the pauses.
        first_pause_secs, longest_pause_secs: after a failure.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        draw: Random,
        *,
        first_pause_secs: float = FIRST_PAUSE_SECS,
        longest_pause_secs: float = LONGEST_PAUSE_SECS,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._draw = draw
        self._first_pause_secs = first_pause_secs
        self._longest_pause_secs = longest_pause_secs
        self._repairs: dict[str, Repair] = {}
        self._suspects: set[str] = set()
        self._sent: set[str] = set()
        self._at_work: dict[str, asyncio.Task[None]] = {}

    async def begin(self) -> frozenset[str]:
        """Read what an earlier controller could not mend; return those workers."""
        self._repairs = await self._store.repairs.list()
        return frozenset(self._repairs)

    async def close(self) -> None:
        """Give up what is under way; the workers go on with what they were sent."""
        tasks = list(self._at_work.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self, looks: Sequence[Look], back: Collection[str] = ()) -> frozenset[str]:
        """Begin to mend what was found.

        Args:
            looks: of workers that answered just now.
            back: workers that were unreachable before.

        Returns:
            those that should be looked at once more, soon.
        """
        now = datetime.now(UTC)
        for name in self._repairs.keys() & set(back):
            self._repairs[name] = replace(self._repairs[name], next_at=now)
        for one in looks:
            await self._look(one, now)
        return frozenset(one.host.name for one in looks if one.host.name in self._suspects - self._at_work.keys())

    async def forget_all_but(self, hosts: AbstractSet[str]) -> None:
        """Forget the workers that are none any more."""
        gone = self._repairs.keys() - hosts
        if gone:
            await self._store.repairs.clear(gone)
        for host in gone:
            del self._repairs[host]
        self._suspects &= hosts
        self._sent &= hosts

    async def _look(self, look: Look, now: datetime) -> None:
        name = look.host.name
        if name in self._at_work:
            return
        what = cure(look.found, look.newest)
        if what is Cure.LOOK_AGAIN and name not in self._suspects:
            self._suspects.add(name)
            return
        self._suspects.discard(name)
        if what is Cure.NOTHING:
            self._sent.discard(name)
            if name in self._repairs:
                await self._store.repairs.clear([name])
                del self._repairs[name]
                log.info("worker.mended", host=name)
        elif what is not Cure.NONE_KNOWN:
            if name in self._sent:
                self._sent.discard(name)
                await self._failed(name, f"It took its shard, and {look.found[0].words}")
            self._try(look, now)

    def _try(self, look: Look, now: datetime) -> None:
        name = look.host.name
        before = self._repairs.get(name)
        waits = before is not None and now < before.next_at
        if waits or len(self._at_work) >= AT_ONCE:
            return
        task = asyncio.create_task(self._mend(look), name=f"mending {name}")
        self._at_work[name] = task
        task.add_done_callback(lambda _: self._at_work.pop(name))

    async def _mend(self, look: Look) -> None:
        shard = Shard(generation=look.newest, deckies=tuple(decky.spec for decky in look.fleet.wanted))
        job = self._dispatcher.offer(look.host, shard)
        if job is None:  # a command was quicker
            return
        name, found = look.host.name, [one.words for one in look.found[:NAMED]]
        log.info("worker.differed", host=name, generation=shard.generation, found=found)
        try:
            try:
                error = _complaint(await asyncio.shield(job.done))
            except Conflict as refusal:
                newest, _ = await self._store.fleet.of_workers([])
                if newest > look.newest:  # a command has overtaken this
                    return
                error = refusal.message
            except DecnetError as failure:
                error = failure.message
            if error is None:
                self._sent.add(name)
            else:
                await self._failed(name, error)
        except DecnetError as failure:  # the database is away
            log.warning("repair.unrecorded", host=name, reason=failure.message)

    async def _failed(self, host: str, error: str) -> None:
        now = datetime.now(UTC)
        repair = (self._repairs.get(host) or Repair(host, 0, 0, "", now, now)).failed_again(error, now, now)
        pause_secs = min(self._first_pause_secs * 2.0 ** min(repair.failures - 1, 32), self._longest_pause_secs)
        if repair.alike >= GIVES_UP_AFTER:
            pause_secs = self._longest_pause_secs
        repair = replace(repair, next_at=now + timedelta(seconds=pause_secs * self._draw.uniform(0.5, 1.0)))
        self._repairs[host] = repair
        log.warning("repair.failed", host=host, failures=repair.failures, reason=error)
        if repair.alike == GIVES_UP_AFTER:
            log.error("repair.given_up", host=host, failures=repair.failures, reason=error)
        await self._store.repairs.keep(repair)


def _complaint(report: ShardReport) -> str | None:
    failed = [decky for decky in report.deckies if decky.phase is not DeckyPhase.RUNNING]
    if not failed:
        return None
    first = min(failed, key=lambda decky: decky.name)
    return f"{len(failed)} of {len(report.deckies)} deckies do not run ({first.name}: {shown(first.error or '', 200)})"
