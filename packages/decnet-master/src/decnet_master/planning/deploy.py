"""Add deckies to the fleet, take some from it, and cut it into what each worker is sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from decnet_core.errors import Conflict, NotFound
from decnet_core.fleet import DeckySpec, Shard
from decnet_master.planning.draw import Draw
from decnet_master.planning.requests import MAX_FLEET, Candidate, FleetRequest, Placement
from decnet_master.planning.rooms import Rooms, some


def plan_deploy(
    request: FleetRequest,
    candidates: Iterable[Candidate],
    current: Sequence[Placement],
    seed: int,
    lingering: Sequence[Placement] = (),
) -> tuple[Placement, ...]:
    """Place the deckies that are asked for; return only these, the fleet is `current` and them.

    Args:
        request: what to add.
        candidates: the workers that may run deckies.
        current: the whole fleet, whoever runs it.
        seed: of all that is drawn.
        lingering: deckies that shall no longer run but may; no new one is taken for one of them.

    Raises:
        NoWorkers: there is no active worker.
        NotFound: a worker that was named is none, or none has the labels.
        Conflict: there is no room.
    """
    rooms = Rooms(candidates, current)
    rooms.require(request.count, request.hosts, request.labels)
    require_fleet(len(current) + request.count)
    draw = Draw(seed, (*current, *lingering))
    placed = []
    for _ in range(request.count):
        host = rooms.take(request.hosts, request.labels)
        placed.append(Placement(host, draw.decky(request.services, request.name_prefix)))
    return tuple(placed)


def plan_teardown(names: Collection[str], current: Sequence[Placement]) -> tuple[Placement, ...]:
    """Return the fleet without the deckies that are named; no names mean all.

    Raises:
        NotFound: a name is no decky's.
    """
    wanted = set(names)
    unknown = wanted - {placement.decky.name for placement in current}
    if unknown:
        raise NotFound(f"No decky is called {some(unknown)}", "`decnet-master deckies` lists them.")
    if not wanted:
        return ()
    return tuple(placement for placement in current if placement.decky.name not in wanted)


def shards(generation: int, hosts: Collection[str], fleet: Iterable[Placement]) -> dict[str, Shard]:
    """Cut out of the fleet what each of the hosts shall run; a host without deckies gets an empty shard."""
    by_host: defaultdict[str, list[DeckySpec]] = defaultdict(list)
    for placement in fleet:
        by_host[placement.host].append(placement.decky)
    return {host: Shard(generation=generation, deckies=tuple(by_host[host])) for host in sorted(hosts)}


def require_fleet(size: int) -> None:
    """Refuse a fleet that is too large.

    Raises:
        Conflict: it is.
    """
    if size > MAX_FLEET:
        raise Conflict(
            f"That would be {size} deckies", f"A fleet holds at most {MAX_FLEET}; another master can have one too."
        )
