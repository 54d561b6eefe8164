"""The fleet over HTTP: deploy, teardown, deckies.

A change is: take the next generation, plan, store the desired state, send each worker that it concerns its whole
shard. The desired state is stored before anything is sent and stays when a worker fails. Concerned is a worker whose
deckies change, and one that is not yet as desired: so every deploy also mends what failed before.

Planning and storing is one change at a time. Speaking to workers is not: a worker that is slow or hangs must not keep
the fleet from being changed elsewhere.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from fastapi import APIRouter

from decnet_core.errors import NotFound
from decnet_core.fleet import DeckyPhase
from decnet_master.planning import FleetRequest, Placement, plan_deploy, plan_teardown, shards
from decnet_master.store import PlacedDecky, Store
from decnet_master.swarmctl.dispatch import Dispatcher
from decnet_master.swarmctl.hosts import active_hosts
from decnet_master.swarmctl.messages import (
    DeployRequest,
    FleetReply,
    TeardownRequest,
    WorkerResult,
)
from decnet_master.swarmctl.traits import candidate_of
from decnet_master.views import DeckyList, decky_list


def router(store: Store, dispatcher: Dispatcher) -> APIRouter:
    """Build the room's routes."""
    routes = APIRouter(prefix="/fleet")
    changes = _Changes(store, dispatcher)

    @routes.get("/deckies")
    async def deckies() -> DeckyList:
        return decky_list(await store.fleet.current())

    @routes.post("/deploy")
    async def deploy(request: DeployRequest) -> FleetReply:
        return await changes.deploy(request)

    @routes.post("/teardown")
    async def teardown(request: TeardownRequest) -> FleetReply:
        return await changes.teardown(request)

    return routes


class _Changes:
    """Changes the fleet, one at a time."""

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._turn = asyncio.Lock()

    async def deploy(self, request: DeployRequest) -> FleetReply:
        async with self._turn:
            current = await self._store.fleet.current()
            lingering = await self._store.fleet.lingering()
            candidates = list(map(candidate_of, await active_hosts(self._store)))
            wanted = FleetRequest(request.count, request.services, request.hosts, request.name_prefix, request.labels)
            added = plan_deploy(
                wanted, candidates, _placements(current), secrets.randbits(64), lingering=_placements(lingering)
            )
            fleet = (*_placements(current), *added)
            generation = await self._place(fleet)
        changed = {placement.host for placement in added}
        results = await self._send(generation, fleet, changed, _unsettled(current, lingering), removing=False)
        names = tuple(placement.decky.name for placement in added)
        return FleetReply(generation=generation, added=names, results=results)

    async def teardown(self, request: TeardownRequest) -> FleetReply:
        async with self._turn:
            current = await self._store.fleet.current()
            lingering = await self._store.fleet.lingering()
            if not current and not lingering:
                raise NotFound("There are no deckies", "`decnet-master deploy` makes some.")
            fleet = plan_teardown(request.names, _placements(current))
            kept = {placement.decky.name for placement in fleet}
            removed = [decky for decky in current if decky.spec.name not in kept]
            generation = await self._place(fleet)
        changed = {decky.host for decky in removed}
        results = await self._send(generation, fleet, changed, _unsettled((), lingering), removing=True)
        names = tuple(decky.spec.name for decky in removed)
        return FleetReply(generation=generation, removed=names, results=results)

    async def _place(self, fleet: Sequence[Placement]) -> int:
        generation = await self._store.fleet.next_generation(datetime.now(UTC))
        await self._store.fleet.place(generation, [(placement.host, placement.decky) for placement in fleet])
        return generation

    async def _send(
        self, generation: int, fleet: Sequence[Placement], changed: set[str], unsettled: set[str], *, removing: bool
    ) -> tuple[WorkerResult, ...]:
        # Who is busy reports on an older generation, which then counts for nothing: it is sent this one after it.
        concerned = changed | unsettled | self._dispatcher.busy
        hosts = [host for host in await active_hosts(self._store) if host.name in concerned]
        missing = sorted((changed | unsettled) - {host.name for host in hosts})
        # A command that changes nothing was given for what is unsettled: then it is told of all.
        unasked = concerned - changed if changed else frozenset[str]()
        results = await self._dispatcher.apply(
            hosts, shards(generation, concerned, fleet), removing=removing, unasked=unasked
        )
        advice = "Its deckies stay in the fleet; tear them down, or enrol the host again."
        results += [WorkerResult(host=host, ok=False, error=f"{host} is not active", advice=advice) for host in missing]
        return tuple(sorted(results, key=lambda result: result.host))


def _placements(deckies: Sequence[PlacedDecky]) -> tuple[Placement, ...]:
    return tuple(Placement(decky.host, decky.spec) for decky in deckies)


def _unsettled(current: Sequence[PlacedDecky], lingering: Sequence[PlacedDecky]) -> set[str]:
    """Name the workers that are not, as far as they have said, as they shall be."""
    broken = {decky.host for decky in current if decky.phase is not DeckyPhase.RUNNING}
    return broken | {decky.host for decky in lingering}
