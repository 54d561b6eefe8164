"""What the operator's CLI and the controller say about plans of the fleet; the rules are those of `messages`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from decnet_core.fleet import Contract, HostName, ServiceName
from decnet_master.labels import Labels
from decnet_master.planning import MAX_FLEET
from decnet_master.swarmctl.messages import FleetReply, PlanId

MAX_MUTATED = 100
"""Deckies at a time. A fleet of which many change at once is seen to be one."""


class GroupRequest(Contract):
    """Deckies that the fleet shall have, all of one kind."""

    names: Annotated[tuple[HostName, ...], Field(max_length=MAX_FLEET)]
    services: Annotated[tuple[ServiceName, ...], Field(min_length=1, max_length=32)] = ("ssh",)
    hosts: Annotated[tuple[HostName, ...], Field(max_length=1000)] = ()
    labels: Labels = Field(default_factory=dict)
    sometimes: Annotated[tuple[ServiceName, ...], Field(max_length=31)] = ()


class ApplyRequest(Contract):
    """Make the fleet what is declared. With `prune` what is not declared goes; else it stays.

    With a `plan` it is done only if the plan would still be this one.
    """

    groups: Annotated[tuple[GroupRequest, ...], Field(max_length=MAX_FLEET)]
    prune: bool = False
    plan: PlanId | None = None


class MutateRequest(Contract):
    """Let deckies gain or lose a service that the fleet file allows them `sometimes`.

    With names it is all of them, or `count` of them; without it is one, or `count`. `force` takes also those in use.
    Another `seed` draws others. With a `plan` it is done only if the plan would still be this one.
    """

    names: Annotated[tuple[HostName, ...], Field(max_length=MAX_MUTATED)] = ()
    count: Annotated[int, Field(ge=1, le=MAX_MUTATED)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    force: bool = False
    plan: PlanId | None = None


class ResetRequest(Contract):
    """Make deckies what they were when they were new. `force` takes also those in use.

    With a `plan` it is done only if the plan would still be this one.
    """

    names: Annotated[tuple[HostName, ...], Field(min_length=1, max_length=MAX_FLEET)]
    force: bool = False
    plan: PlanId | None = None


class PlanStep(Contract):
    """What happens to one decky."""

    action: Literal["add", "change", "remove"]
    name: str
    host: str
    services: tuple[str, ...]
    mac: str | None = None


class StrayView(Contract):
    """A decky that stays on a worker where it would not be placed now."""

    name: str
    host: str
    why: str


class FleetPlan(Contract):
    """What a request would do to the fleet of this generation. Handed back with the request, the id is held to it."""

    id: str
    generation: int
    steps: tuple[PlanStep, ...] = ()
    kept: int = 0
    undeclared: tuple[str, ...] = ()
    """Deckies that stay though they are not declared; `prune` removes them."""
    strays: tuple[StrayView, ...] = ()
    allowed: tuple[str, ...] = ()
    """Deckies that stay as they are, and that a mutation may make something else than before."""
    unsettled: tuple[str, ...] = ()
    """Workers that are not as they should be; they are sent their part again with whatever is done."""


class FleetProgress(Contract):
    """How far a change is: one line of the answer to a client that accepts lines; the last one has the reply."""

    workers: int
    done: int
    failed: int
    reply: FleetReply | None = None
