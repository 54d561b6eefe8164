"""Make the fleet what somebody declares it to be: add what is missing, change what differs, and leave the rest alone.

A decky is known by its name. One that exists stays on its worker with its card and its accounts, also where the
conditions for its place have changed since it was placed: moving it would end what an attacker does on it and lose
what the master waits for. It is told as a stray instead, and whoever wants it elsewhere tears it down. What nobody
declares is removed only when that is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from decnet_core.errors import Conflict
from decnet_master.planning.deploy import require_fleet
from decnet_master.planning.draw import Draw
from decnet_master.planning.requests import Candidate, DeckyGroup, FleetChange, Placement, Stray
from decnet_master.planning.rooms import Rooms, some
from decnet_master.terms import Terms


def plan_fleet(
    groups: Sequence[DeckyGroup],
    candidates: Iterable[Candidate],
    current: Sequence[Placement],
    seed: int,
    lingering: Sequence[Placement] = (),
    *,
    prune: bool = False,
) -> FleetChange:
    """Plan the way from the fleet that is to the one that is declared; from that to itself it is empty.

    Args:
        groups: all that is declared.
        candidates: the workers that may run deckies.
        current: the whole fleet, whoever runs it.
        seed: of all that is drawn.
        lingering: deckies that shall no longer run but may. A new one of such a name goes to the same worker if it can,
            so that no two machines have it.
        prune: whether what is not declared goes.

    Raises:
        Conflict: a name is declared twice, or there is no room.
        NoWorkers: something is to be added, and there is no active worker.
        NotFound: it is to be added to a worker that is none, or none has the labels.
    """
    _require_distinct(groups)
    there = {placement.decky.name: placement for placement in current}
    declared = {name for group in groups for name in group.names}
    undeclared = [placement for placement in current if placement.decky.name not in declared]
    removed = tuple(undeclared) if prune else ()
    staying = [placement for placement in current if not prune or placement.decky.name in declared]
    missing = [(group, tuple(name for name in group.names if name not in there)) for group in groups]
    require_fleet(len(staying) + sum(len(names) for _, names in missing))
    rooms = Rooms(candidates, staying)
    changed = tuple(_changed(groups, there))
    allowed = tuple(_allowed(groups, there, {placement.decky.name for placement in changed}))
    return FleetChange(
        added=tuple(_added(missing, rooms, Draw(seed, (*current, *lingering)), lingering)),
        changed=changed,
        removed=removed,
        allowed=allowed,
        kept=len(staying) - len(changed),
        undeclared=() if prune else tuple(sorted(placement.decky.name for placement in undeclared)),
        strays=tuple(_strays(groups, there, rooms)),
    )


def _require_distinct(groups: Sequence[DeckyGroup]) -> None:
    twice = [name for name, count in Counter(name for group in groups for name in group.names).items() if count > 1]
    if twice:
        raise Conflict(f"Declared more than once: {some(twice)}", "Give each decky its own name.")


def _added(
    missing: Sequence[tuple[DeckyGroup, tuple[str, ...]]], rooms: Rooms, draw: Draw, lingering: Sequence[Placement]
) -> Iterator[Placement]:
    before = {placement.decky.name: placement.host for placement in lingering}
    for group, names in missing:
        if not names:
            continue
        rooms.require(len(names), group.hosts, group.labels)
        for name in names:
            host = before.get(name)
            if host is not None and rooms.fits(host, group.hosts, group.labels) and rooms.has_room(host):
                rooms.put(host)
            else:
                host = rooms.take(group.hosts, group.labels)
            yield Placement(host, draw.named(name, group.services), Terms(tuple(sorted(group.sometimes))))


def _changed(groups: Sequence[DeckyGroup], there: dict[str, Placement]) -> Iterator[Placement]:
    for group in groups:
        for name in group.names:
            placement = there.get(name)
            if placement is None:
                continue
            # What a mutation gave it stays as long as the file allows it.
            has = placement.decky.services
            services = (*group.services, *(service for service in has if service in group.sometimes))
            if set(has) != set(services):
                spec = placement.decky.model_copy(update={"services": services})
                yield Placement(placement.host, spec, _terms(group, placement))


def _allowed(
    groups: Sequence[DeckyGroup], there: dict[str, Placement], changed: Collection[str]
) -> Iterator[Placement]:
    for group in groups:
        for name in group.names:
            if name in there and name not in changed and _terms(group, there[name]) != there[name].terms:
                yield replace(there[name], terms=_terms(group, there[name]))


def _terms(group: DeckyGroup, placement: Placement) -> Terms:
    return Terms(tuple(sorted(group.sometimes)), placement.terms.mutated_at)


def _strays(groups: Sequence[DeckyGroup], there: dict[str, Placement], rooms: Rooms) -> Iterator[Stray]:
    for group in groups:
        for name in group.names:
            host = there[name].host if name in there else None
            if host is None:
                continue
            if not rooms.is_active(host):
                yield Stray(name, host, f"{host} is no active worker")
            elif not rooms.fits(host, group.hosts, group.labels):
                yield Stray(name, host, f"{host} is not where it would be placed now")
