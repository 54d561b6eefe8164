"""From what an operator asks for to what each worker runs: placements.

Pure: the fleet that exists, the workers that are there and a seed go in, placements come out; the same input gives the
same plan. Deploying adds to the fleet: a decky that exists stays where it is, as it is. Every new one goes to the
worker that runs the fewest at that moment, the first by name among equals, so that a fleet ends up balanced however
it was before.

It reads no clock, no database and no network; `swarmctl` does, and sends the result.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random

from decnet_core.errors import Conflict, DecnetError, NotFound
from decnet_core.fleet import MAX_DECKIES_PER_SHARD, Account, DeckySpec, Shard
from decnet_master import disguise

MAX_FLEET = 5_000
"""Deckies of one fleet; the combinations of names, cards and accounts are far more."""


class NoWorkers(DecnetError):
    """There is no active worker to do it."""

    def __init__(
        self,
        message: str = "There is no active worker",
        advice: str = "Enrol one: `decnet-master swarm enroll NAME` makes its token.",
    ) -> None:
        super().__init__(message, advice)


@dataclass(frozen=True, slots=True)
class Placement:
    """A decky and the worker that runs it."""

    host: str
    decky: DeckySpec


@dataclass(frozen=True, slots=True)
class FleetRequest:
    """What an operator asks for.

    Attributes:
        count: deckies to add.
        services: of each of them.
        hosts: workers to use; none means every active one.
        name_prefix: names are `<prefix>-01`, … instead of drawn ones.
    """

    count: int
    services: tuple[str, ...] = ("ssh",)
    hosts: tuple[str, ...] = ()
    name_prefix: str | None = None


def plan_deploy(
    request: FleetRequest,
    active_hosts: Collection[str],
    current: Sequence[Placement],
    seed: int,
    lingering: Sequence[Placement] = (),
) -> tuple[Placement, ...]:
    """Place the deckies that are asked for; return only these, the fleet is `current` and them.

    Args:
        request: what to add.
        active_hosts: names of the workers that may run deckies.
        current: the whole fleet, whoever runs it.
        seed: of all that is drawn.
        lingering: deckies that shall no longer run but may; no new one is taken for one of them.

    Raises:
        NoWorkers: there is no active worker.
        NotFound: a worker that was named is none.
        Conflict: there is no room.
    """
    hosts = _eligible(request.hosts, active_hosts)
    loads = {host: sum(placement.host == host for placement in current) for host in hosts}
    room = sum(MAX_DECKIES_PER_SHARD - load for load in loads.values())
    if request.count > min(room, MAX_FLEET - len(current)):
        raise Conflict(
            f"There is no room for {request.count} more deckies",
            f"A worker runs at most {MAX_DECKIES_PER_SHARD} and a fleet holds at most {MAX_FLEET}.",
        )
    draw = _Draw(seed, (*current, *lingering))
    placed = []
    for _ in range(request.count):
        host = min(loads, key=lambda name: (loads[name], name))
        loads[host] += 1
        placed.append(Placement(host, draw.decky(request)))
    return tuple(placed)


def plan_teardown(names: Collection[str], current: Sequence[Placement]) -> tuple[Placement, ...]:
    """Return the fleet without the deckies that are named; no names mean all.

    Raises:
        NotFound: a name is no decky's.
    """
    unknown = set(names) - {placement.decky.name for placement in current}
    if unknown:
        raise NotFound(f"No decky is called {', '.join(sorted(unknown)[:5])}", "`decnet-master deckies` lists them.")
    if not names:
        return ()
    return tuple(placement for placement in current if placement.decky.name not in names)


def shards(generation: int, hosts: Collection[str], fleet: Sequence[Placement]) -> dict[str, Shard]:
    """Cut out of the fleet what each of the hosts shall run; a host without deckies gets an empty shard."""
    return {
        host: Shard(generation=generation, deckies=tuple(place.decky for place in fleet if place.host == host))
        for host in sorted(hosts)
    }


def _eligible(wanted: Sequence[str], active_hosts: Collection[str]) -> list[str]:
    if not active_hosts:
        raise NoWorkers
    unknown = set(wanted) - set(active_hosts)
    if unknown:
        raise NotFound(
            f"No active worker is called {', '.join(sorted(unknown)[:5])}", "`decnet-master swarm list` shows them."
        )
    return sorted(set(wanted) or set(active_hosts))


class _Draw:
    """Draws deckies that differ from all there are, and from one another."""

    def __init__(self, seed: int, existing: Sequence[Placement]) -> None:
        self._rng = Random(seed)  # noqa: S311 -- a disguise, not a secret, and it must be repeatable
        self._names = {placement.decky.name for placement in existing}
        self._macs = {placement.decky.mac for placement in existing if placement.decky.mac}
        self._accounts: set[frozenset[Account]] = {frozenset(placement.decky.accounts) for placement in existing}

    def decky(self, request: FleetRequest) -> DeckySpec:
        name, prefixes = disguise.machine(self._rng, self._names, request.name_prefix)
        mac = disguise.mac_address(self._rng, prefixes, self._macs)
        accounts = disguise.accounts(self._rng, self._accounts)
        self._names.add(name)
        self._macs.add(mac)
        self._accounts.add(frozenset(accounts))
        return DeckySpec(name=name, services=request.services, accounts=accounts, mac=mac)
