"""Ask every active worker regularly how it is, and write down what it says.

Each worker is asked once in `every_secs`, give or take a tenth, so that a fleet that was asked at one moment drifts
apart; after a start they are spread over one such time, those first that were not as they shall be when the controller
ended. One that does not answer is asked again sooner, until it counts as unreachable (`store.heartbeats.MISSES`), and
then ever more rarely: a thousand that are away cost little, and one that comes back is noticed within
`MAX_PAUSES * every_secs`.

Answers are written in batches, one transaction for all that came since the last, and compared with what is placed on
each worker (`drift`); the reconciler is told of them all. A database that is away loses nothing but heartbeats.

What it does not do: hold connections open. A worker is to be able to tell at each of them who asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import NoReturn

import structlog

from decnet_core.errors import DecnetError
from decnet_core.fleet import AgentStatus, DeckyPhase
from decnet_master.store import Beat, Host, HostStatus, Store, WorkerFleet
from decnet_master.store.heartbeats import MISSES
from decnet_master.swarmctl.dispatch import Dispatcher
from decnet_master.swarmctl.drift import deviations, news
from decnet_master.swarmctl.reconciler import Look, Reconciler

ASKED_AT_ONCE = 64
"""A thousand workers that do not answer take 5 s each; with the pauses that they get it is a sixth of these places."""

MAX_PAUSES = 5
"""Of an unreachable worker, in times of `every_secs`: two and a half minutes."""

JITTER = 0.1
TICKS = 10
"""Batches in one `every_secs`; at least one a second."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Said:
    """What came of asking a worker."""

    host: Host
    asked_at: datetime
    asked_secs: float
    status: AgentStatus | None = None
    error: str | None = None


class Heart:
    """Beats; `run` is its task.

    Args:
        store: open.
        dispatcher: talks to the agents.
        reconciler: mends what differs.
        every_secs: between two heartbeats of one worker.
        draw: of all that is spread.
    """

    def __init__(
        self, store: Store, dispatcher: Dispatcher, reconciler: Reconciler, every_secs: float, draw: Random
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._reconciler = reconciler
        self._every_secs = every_secs
        self._draw = draw
        self._places = asyncio.Semaphore(ASKED_AT_ONCE)
        self._due: dict[str, float] = {}
        self._misses: dict[str, int] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._said: list[_Said] = []
        self._is_failing = False

    async def run(self) -> NoReturn:
        """Beat until cancelled."""
        tick_secs = min(1.0, self._every_secs / TICKS)
        begun = False
        try:
            while True:
                try:
                    if not begun:
                        await self._begin()
                        begun = True
                    await self._beat()
                except DecnetError as error:
                    self._failed(error)
                else:
                    self._is_failing = False
                await asyncio.sleep(tick_secs)
        finally:
            tasks = list(self._asking.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin(self) -> None:
        """Spread those that are there, and put those first that are not known to be as they shall be."""
        repairs = await self._reconciler.begin()
        unsettled = {decky.host for decky in await self._store.fleet.lingering()} | repairs
        unsettled |= {
            decky.host for decky in await self._store.fleet.current() if decky.phase is not DeckyPhase.RUNNING
        }
        now = asyncio.get_running_loop().time()
        for host in await self._active():
            spread = 0.0 if host.name in unsettled else self._draw.uniform(0, self._every_secs)
            self._due[host.name] = now + spread

    async def _active(self) -> list[Host]:
        # One whose address is not known cannot be asked: it tells it with its first renewal.
        hosts = await self._store.hosts.list()
        return [host for host in hosts if host.status is HostStatus.ACTIVE and host.address is not None]

    async def _beat(self) -> None:
        hosts = {host.name: host for host in await self._active()}
        await self._forget(hosts.keys())
        now = asyncio.get_running_loop().time()
        for name, host in hosts.items():
            due = self._due.setdefault(name, now + self._pause_secs(0))
            if due <= now and name not in self._asking:
                self._asking[name] = asyncio.create_task(self._ask(host), name=f"heartbeat of {name}")
        said, self._said = self._said, []
        if said := [one for one in said if one.host.name in hosts]:
            await self._write(said)

    async def _forget(self, active: AbstractSet[str]) -> None:
        for name in self._due.keys() - active:
            del self._due[name]
            self._misses.pop(name, None)
        await self._reconciler.forget_all_but(active)

    async def _ask(self, host: Host) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._places:
                asked_at, asked_secs = datetime.now(UTC), loop.time()
                try:
                    status = await self._dispatcher.status(host)
                except DecnetError as error:
                    said = _Said(host, asked_at, asked_secs, error=error.message)
                else:
                    said = _Said(host, asked_at, asked_secs, status)
            self._said.append(said)
            misses = self._misses[host.name] = 0 if said.status is not None else self._misses.get(host.name, 0) + 1
            self._due[host.name] = loop.time() + self._pause_secs(misses)
        finally:
            del self._asking[host.name]

    def _pause_secs(self, misses: int) -> float:
        times = 1.0
        if 0 < misses < MISSES:
            times = 0.5
        elif misses:
            times = min(2.0 ** (misses - MISSES), MAX_PAUSES)
        return self._every_secs * times * self._draw.uniform(1 - JITTER, 1 + JITTER)

    async def _write(self, said: Sequence[_Said]) -> None:
        newest, fleets = await self._store.fleet.of_workers([one.host.name for one in said])
        beats, looks = [], []
        for one in said:
            name, status = one.host.name, one.status
            # What was said before a shard was applied says nothing about it.
            if status is None or self._dispatcher.sent_since(name, one.asked_secs):
                beats.append(Beat(name, one.asked_at, status, one.error))
                continue
            fleet = fleets.get(name, WorkerFleet())
            found = deviations(newest, fleet, status)
            words = tuple(deviation.words for deviation in found)
            beats.append(Beat(name, one.asked_at, status, drift=words, deckies=news(fleet, status)))
            looks.append(Look(one.host, newest, fleet, found))
        turned = await self._store.heartbeats.record(beats, datetime.now(UTC))
        for name in turned.away:
            log.warning("worker.went_away", host=name, reason=next(one.error for one in said if one.host.name == name))
        for name in turned.back:
            log.info("worker.answered_again", host=name)
        suspects = await self._reconciler.look(looks, turned.back)
        again = asyncio.get_running_loop().time() + self._every_secs / MAX_PAUSES
        for name in suspects & self._due.keys():
            self._due[name] = min(self._due[name], again)

    def _failed(self, error: DecnetError) -> None:
        if not self._is_failing:
            log.warning("heartbeat.unrecorded", reason=error.message, advice=error.advice)
        self._is_failing = True
