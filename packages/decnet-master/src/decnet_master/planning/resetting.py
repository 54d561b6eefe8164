"""Make deckies what they were when they were new: their worker makes each anew in its place.

Name, services, card, accounts, seed and worker stay, so it is the same machine to whoever knew it, without what
visitors left there. One that has a visitor, or had one just now, is left alone unless the caller says that none
counts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from decnet_core.errors import Conflict, NotFound
from decnet_master.planning.requests import FleetChange, Placement
from decnet_master.planning.rooms import some


def plan_reset(
    names: Collection[str],
    active: Collection[str],
    current: Sequence[Placement],
    in_use: Collection[tuple[str, str]],
) -> FleetChange:
    """Plan it.

    Args:
        names: of the deckies; all are reset or none.
        active: the workers that are spoken to.
        current: the whole fleet, whoever runs it.
        in_use: worker and name of each decky that has a visitor.

    Raises:
        NotFound: a name is no decky's.
        Conflict: one has a visitor, or its worker is not active.
    """
    there = {placement.decky.name: placement for placement in current}
    if unknown := set(names) - set(there):
        raise NotFound(f"No decky is called {some(unknown)}", "`decnet-master deckies` lists them.")
    chosen = [there[name] for name in sorted(set(names))]
    if away := [placement.decky.name for placement in chosen if placement.host not in active]:
        raise Conflict(f"On a worker that is not active: {some(away)}", "`decnet-master swarm list` says how they are.")
    if used := [each.decky.name for each in chosen if (each.host, each.decky.name) in in_use]:
        raise Conflict(f"In use: {some(used)}", "Wait until the visitor has gone, or --force: his session ends then.")
    return FleetChange(changed=tuple(map(_golden, chosen)), kept=len(current) - len(chosen))


def _golden(placement: Placement) -> Placement:
    spec = placement.decky
    return replace(placement, decky=spec.model_copy(update={"resets": spec.resets + 1}))
