"""From what an operator asks for to what each worker runs: placements.

    requests   what is asked for, who could run it, and where a decky is
    rooms      which worker takes the next one
    draw       deckies that differ from all there are
    deploy     add to the fleet, take from it, cut it into shards
    whole      make the fleet what a file says
    mutation   let some deckies gain or lose a service
    resetting  make deckies what they were when they were new
    naming     the seed of a plan, and a plan's id

Pure: the fleet that exists, the workers that are there and a seed go in, placements come out; the same input gives the
same plan. A decky that exists stays where it is. Every new one goes to the worker that runs the fewest at that moment
among those that may run it and have room, the first by name among equals, so that a fleet ends up balanced however
it was before.

It reads no clock, no database and no network; `swarmctl` does, and sends the result.
"""

from __future__ import annotations

from decnet_master.planning.deploy import plan_deploy, plan_teardown, shards
from decnet_master.planning.mutation import MutationRequest, plan_mutation
from decnet_master.planning.naming import plan_id, seed_for
from decnet_master.planning.requests import (
    MAX_FLEET,
    Candidate,
    DeckyGroup,
    FleetChange,
    FleetRequest,
    NoWorkers,
    Placement,
    Stray,
)
from decnet_master.planning.resetting import plan_reset
from decnet_master.planning.whole import plan_fleet

__all__ = [
    "MAX_FLEET",
    "Candidate",
    "DeckyGroup",
    "FleetChange",
    "FleetRequest",
    "MutationRequest",
    "NoWorkers",
    "Placement",
    "Stray",
    "plan_deploy",
    "plan_fleet",
    "plan_id",
    "plan_mutation",
    "plan_reset",
    "plan_teardown",
    "seed_for",
    "shards",
]
