"""Ask workers how they are, now: agent, updater and log shipper of each.

Agent and updater are asked over mutual TLS, all workers at once as far as there are places. The shipper has no port:
its state is what the listener reports of it. Everything that lies in the database is read once for all of them, and
what the agents say is written down like a heartbeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from decnet_core.errors import DecnetError
from decnet_core.fleet import AgentStatus, Health
from decnet_master.store import Beat, Heartbeat, Host, Store, WorkerFleet
from decnet_master.store.shipping import Overview, WorkerShipping
from decnet_master.swarmctl.dispatch import Dispatcher
from decnet_master.swarmctl.drift import deviations, news
from decnet_master.swarmctl.messages import HostCheck, LogState
from decnet_master.swarmctl.updater_client import UpdaterClient
from decnet_master.swarmctl.worker_calls import Worker

ASKED_AT_ONCE = 64
"""Of each daemon. Their handshakes wait for one processor, 2.5 ms each: all of them are through in a third of a second,
and a master that has fifteen times as much to do still greets every worker within the 5 s that it gives it. A thousand
workers that do not answer take those 5 s each: they are through within 80 s."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What came of asking one worker's two daemons."""

    host: Host
    at: datetime
    at_secs: float
    agent: AgentStatus | DecnetError
    updater: Health | DecnetError


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database knows of the workers."""

    newest: int
    fleets: dict[str, WorkerFleet]
    shipping: Overview
    shippers: dict[str, WorkerShipping]
    certificates_end: dict[str, datetime | None]
    have_updater: frozenset[str]
    beats: dict[str, Heartbeat]


class Checker:
    """Checks many workers at once."""

    def __init__(self, store: Store, dispatcher: Dispatcher, updaters: UpdaterClient) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._updaters = updaters
        self._agent_places = asyncio.Semaphore(ASKED_AT_ONCE)
        self._updater_places = asyncio.Semaphore(ASKED_AT_ONCE)

    async def check(self, hosts: Sequence[Host]) -> list[HostCheck]:
        """Ask each, write down what they say, and tell; in the order given.

        Raises:
            Unavailable, RetryLater: the database does not answer.
        """
        asked = list(await asyncio.gather(*map(self._ask, hosts)))
        known = await self._known([host.name for host in hosts])
        checked, beats = [], []
        for one in asked:
            fleet = known.fleets.get(one.host.name, WorkerFleet())
            words, beat = self._judged(one, known.newest, fleet)
            beats.append(beat)
            checked.append(_checked(one, known, fleet, words))
        await self._store.heartbeats.record(beats, datetime.now(UTC))
        return checked

    async def _ask(self, host: Host) -> _Asked:
        at, at_secs = datetime.now(UTC), asyncio.get_running_loop().time()
        agent, updater = await asyncio.gather(self._ask_agent(host), self._ask_updater(host))
        return _Asked(host, at, at_secs, agent, updater)

    async def _ask_agent(self, host: Host) -> AgentStatus | DecnetError:
        try:
            async with self._agent_places:
                return await self._dispatcher.status(host)
        except DecnetError as error:
            return error

    async def _ask_updater(self, host: Host) -> Health | DecnetError:
        if host.address is None or host.updater_port is None:
            return DecnetError(f"No address is known of the updater of {host.name}")
        try:
            async with self._updater_places:
                return await self._updaters.health(Worker(host.name, host.address, host.updater_port))
        except DecnetError as error:
            return error

    async def _known(self, names: Sequence[str]) -> _Known:
        newest, fleets = await self._store.fleet.of_workers(names)
        shipping = await self._store.shipping.overview(datetime.now(UTC))
        standings = await self._store.certificates.standings()
        return _Known(
            newest,
            fleets,
            shipping,
            {one.host: one for one in shipping.workers},
            {one.host: one.used_not_after or one.not_after for one in standings},
            await self._store.certificates.updaters_seen(),
            await self._store.heartbeats.list(),
        )

    def _judged(self, one: _Asked, newest: int, fleet: WorkerFleet) -> tuple[tuple[str, ...], Beat]:
        name = one.host.name
        if isinstance(one.agent, DecnetError):
            return (), Beat(name, one.at, error=one.agent.message)
        words = tuple(found.words for found in deviations(newest, fleet, one.agent))
        if self._dispatcher.sent_since(name, one.at_secs):  # its answer may be from before
            return words, Beat(name, one.at, one.agent)
        return words, Beat(name, one.at, one.agent, drift=words, deckies=news(fleet, one.agent))


def _checked(one: _Asked, known: _Known, fleet: WorkerFleet, drift: tuple[str, ...]) -> HostCheck:
    name, agent, updater = one.host.name, one.agent, one.updater
    shipper, beat = known.shippers.get(name), known.beats.get(name)
    common = HostCheck(
        host=name,
        ok=False,
        updater_ok=_updater_ok(updater, has_one=name in known.have_updater),
        updater_version=None if isinstance(updater, DecnetError) else updater.version,
        updater_error=updater.message if isinstance(updater, DecnetError) else None,
        log=_log_state(known.shipping, shipper),
        heard_at=None if shipper is None else shipper.heard_at,
        silent_since=None if shipper is None else shipper.silent_since,
        certificate_ends_at=known.certificates_end.get(name),
        wanted_generation=fleet.generation,
        drift=drift,
        repair=None if beat is None else beat.repair,
        repair_failures=0 if beat is None else beat.repairs_alike,
    )
    if isinstance(agent, DecnetError):
        return common.model_copy(update={"error": agent.message, "advice": agent.advice})
    said = {name: getattr(agent, name) for name in ("version", "generation", "engine", "taps", "containment")}
    return common.model_copy(update={"ok": True, "deckies": len(agent.deckies), **said})


def _updater_ok(updater: Health | DecnetError, *, has_one: bool) -> bool | None:
    if not isinstance(updater, DecnetError):
        return True
    return False if has_one else None


def _log_state(overview: Overview, shipper: WorkerShipping | None) -> LogState:
    if shipper is None or overview.listener is None:
        return LogState.UNKNOWN
    if shipper.silent_since is not None:
        return LogState.SILENT
    if not overview.listening:
        return LogState.UNKNOWN
    if shipper.connected:
        return LogState.SHIPS
    return LogState.AWAY if shipper.should_ship else LogState.IDLE
