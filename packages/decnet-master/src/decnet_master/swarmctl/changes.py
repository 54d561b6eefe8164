"""Change the fleet: read what there is, plan, store the desired state, send it to the workers that it concerns.

The desired state is stored before anything is sent and stays when a worker fails. Concerned is a worker whose deckies
change, and one that is not yet as desired: so every change also mends what failed before. A change that does nothing
while everybody is as desired takes no generation and sends nothing.

Planning and storing is one change at a time (`begin…`). Speaking to workers is not (`finish`): a worker that is slow or
hangs must not keep the fleet from being changed elsewhere.

A plan that is only shown is made as the one that is done, from the same seed (`planning.naming`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog

from decnet_core.errors import Conflict, NotFound
from decnet_core.fleet import DeckyPhase
from decnet_master.planning import (
    DeckyGroup,
    FleetChange,
    FleetRequest,
    MutationRequest,
    Placement,
    plan_deploy,
    plan_fleet,
    plan_id,
    plan_mutation,
    plan_reset,
    plan_teardown,
    seed_for,
    shards,
)
from decnet_master.store import Host, PlacedDecky, Store
from decnet_master.swarmctl.dispatch import Dispatcher
from decnet_master.swarmctl.fleet_messages import ApplyRequest, MutateRequest, ResetRequest
from decnet_master.swarmctl.hosts import active_hosts
from decnet_master.swarmctl.messages import DeployRequest, FleetReply, TeardownRequest, WorkerResult
from decnet_master.swarmctl.traits import candidate_of

log = structlog.get_logger()

IDLE = timedelta(hours=24)
"""A decky without an event of a session for so long has no visitor. One who only thinks for a night has one."""

Request = DeployRequest | ApplyRequest | MutateRequest | ResetRequest
Told = Callable[[WorkerResult], object]


@dataclass(frozen=True, slots=True)
class Present:
    """The fleet as it is.

    Attributes:
        generation: of the desired state; 0 before the first.
        current: what shall run.
        lingering: what shall no longer run and may.
        hosts: the workers that may be spoken to.
        in_use: worker and name of each decky with a visitor; None where nobody asked.
    """

    generation: int
    current: Sequence[PlacedDecky]
    lingering: Sequence[PlacedDecky]
    hosts: Sequence[Host]
    in_use: frozenset[tuple[str, str]] | None = None

    @property
    def fleet(self) -> tuple[Placement, ...]:
        """The deckies that shall run."""
        return _placements(self.current)

    @property
    def unsettled(self) -> frozenset[str]:
        """The workers that are not, as far as they have said, as they shall be."""
        broken = {decky.host for decky in self.current if decky.phase is not DeckyPhase.RUNNING}
        return frozenset(broken | {decky.host for decky in self.lingering})


@dataclass(frozen=True, slots=True)
class Begun:
    """A change that is stored and not sent yet.

    Attributes:
        generation: of the desired state now.
        change: what it did.
        fleet: all deckies, after it.
        hosts: the workers that are sent their shards.
        missing: workers that it concerns and that may not be spoken to.
        unasked: workers among `hosts` that the command did not mean.
    """

    generation: int
    change: FleetChange
    fleet: tuple[Placement, ...] = ()
    hosts: tuple[Host, ...] = ()
    missing: tuple[str, ...] = ()
    unasked: frozenset[str] = frozenset()


class Changes:
    """Changes the fleet, one at a time.

    Args:
        store: open.
        dispatcher: talks to the agents.
        secret: the master's; what is drawn follows from it.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher, secret: str) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._secret = secret
        self._turn = asyncio.Lock()

    async def look(self, request: Request) -> tuple[Present, FleetChange]:
        """Plan, and do nothing.

        Raises:
            NoWorkers, NotFound, Conflict: as `plan_deploy` and its like; Conflict also when a plan was named and this
                is another.
        """
        present = await self._present()
        if isinstance(request, MutateRequest | ResetRequest):
            present = replace(present, in_use=await self._in_use(request))
        # Ten thousand deckies take half a second, and workers are heard meanwhile.
        return present, await asyncio.to_thread(self._planned, request, present)

    async def begin(self, request: Request) -> Begun:
        """Plan and store; raises as `look` does."""
        async with self._turn:
            present, change = await self.look(request)
            if not change.hosts and not change.allowed and not present.unsettled:
                return Begun(present.generation, change)
            begun = await self._stored(change, present, present.unsettled)
        for placement in change.changed:
            named = {"decky": placement.decky.name, "worker": placement.host}
            if isinstance(request, MutateRequest):
                log.info("decky.mutated", **named, services=list(placement.decky.services))
            elif isinstance(request, ResetRequest):
                log.info("decky.reset", **named, resets=placement.decky.resets)
        return begun

    async def begin_teardown(self, request: TeardownRequest) -> Begun:
        """Take deckies from the desired state.

        Raises:
            NotFound: there are none, or none of a name.
        """
        async with self._turn:
            present = await self._present()
            if not present.current and not present.lingering:
                raise NotFound("There are no deckies", "`decnet-master deploy` makes some.")
            kept = plan_teardown(request.names, present.fleet)
            names = {placement.decky.name for placement in kept}
            removed = tuple(there for there in present.fleet if there.decky.name not in names)
            unsettled = frozenset(decky.host for decky in present.lingering)
            return await self._stored(FleetChange(removed=removed, kept=len(kept)), present, unsettled)

    async def finish(self, begun: Begun, told: Told = lambda _result: None) -> FleetReply:
        """Send each worker its shard and wait for all reports.

        Args:
            begun: what was stored.
            told: is called with each result as it comes.
        """
        cut = shards(begun.generation, [host.name for host in begun.hosts], begun.fleet)
        # One that loses deckies and gets none is told by another verb: it may then be quicker.
        growing = {placement.host for placement in (*begun.change.added, *begun.change.changed)}
        shrinking = {placement.host for placement in begun.change.removed} - growing

        async def one(host: Host) -> list[WorkerResult]:
            results = await self._dispatcher.apply(
                [host], {host.name: cut[host.name]}, removing=host.name in shrinking, unasked=begun.unasked
            )
            for result in results:
                told(result)
            return results

        results = [_not_active(name) for name in begun.missing]
        for result in results:
            told(result)
        for answers in await asyncio.gather(*map(one, begun.hosts)):
            results += answers
        return FleetReply(
            generation=begun.generation,
            added=_names(begun.change.added),
            changed=_names(begun.change.changed),
            removed=_names(begun.change.removed),
            results=tuple(sorted(results, key=lambda result: result.host)),
        )

    async def _present(self) -> Present:
        fleet = self._store.fleet
        generation, _ = await fleet.of_workers(())
        return Present(generation, await fleet.current(), await fleet.lingering(), await active_hosts(self._store))

    async def _in_use(self, request: MutateRequest | ResetRequest) -> frozenset[tuple[str, str]]:
        if request.force:
            return frozenset()
        if await self._store.derivation.is_behind():
            raise Conflict(
                "Sessions are being counted anew, so nobody knows which deckies are in use",
                "Wait until `decnet-master db rebuild` is through, or --force.",
            )
        return await self._store.fleet.in_use(datetime.now(UTC) - IDLE)

    def _planned(self, request: Request, present: Present) -> FleetChange:
        seed = seed_for(self._secret, present.generation, request.model_dump_json(exclude={"plan"}))
        candidates = list(map(candidate_of, present.hosts))
        lingering = _placements(present.lingering)
        if isinstance(request, ApplyRequest):
            groups = [
                DeckyGroup(group.names, group.services, group.hosts, group.labels, group.sometimes)
                for group in request.groups
            ]
            change = plan_fleet(groups, candidates, present.fleet, seed, lingering, prune=request.prune)
        elif isinstance(request, MutateRequest):
            mutation = MutationRequest(request.count, request.names, request.force)
            active, in_use = {candidate.name for candidate in candidates}, present.in_use or ()
            change = plan_mutation(mutation, active, present.fleet, in_use, seed=seed, now=datetime.now(UTC))
        elif isinstance(request, ResetRequest):
            active = {candidate.name for candidate in candidates}
            change = plan_reset(request.names, active, present.fleet, present.in_use or ())
        else:
            wanted = FleetRequest(request.count, request.services, request.hosts, request.name_prefix, request.labels)
            added = plan_deploy(wanted, candidates, present.fleet, seed, lingering)
            change = FleetChange(added=added, kept=len(present.current))
        if request.plan is not None and plan_id(change) != request.plan:
            raise Conflict(
                f"The plan {request.plan} is not what would be done now",
                "Look again with --dry-run: the fleet, its workers or what you ask for has changed.",
            )
        return change

    async def _stored(self, change: FleetChange, present: Present, unsettled: frozenset[str]) -> Begun:
        fleet = change.of(present.fleet)
        generation = await self._store.fleet.next_generation(datetime.now(UTC))
        placements = [(placement.host, placement.decky) for placement in fleet]
        terms = {placement.decky.name: placement.terms for placement in fleet}
        await self._store.fleet.place(generation, placements, terms)
        # One that is busy and whose deckies stay as they are is not among them: what does not change keeps its
        # generation, so that the report on the shard that it is working on counts.
        concerned = change.hosts | unsettled
        hosts = tuple(host for host in present.hosts if host.name in concerned)
        return Begun(
            generation,
            change,
            fleet,
            hosts,
            missing=tuple(sorted((change.hosts | unsettled) - {host.name for host in hosts})),
            # A command that changes nothing was given for what is unsettled: then it is told of all.
            unasked=concerned - change.hosts if change.hosts else frozenset(),
        )


def _placements(deckies: Sequence[PlacedDecky]) -> tuple[Placement, ...]:
    return tuple(Placement(decky.host, decky.spec, decky.terms) for decky in deckies)


def _names(placements: Sequence[Placement]) -> tuple[str, ...]:
    return tuple(placement.decky.name for placement in placements)


def _not_active(host: str) -> WorkerResult:
    advice = "Its deckies stay in the fleet; tear them down, or enrol the host again."
    return WorkerResult(host=host, ok=False, error=f"{host} is not active", advice=advice)
