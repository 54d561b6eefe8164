"""Let some deckies gain or lose a service, as machines do: seldom, few at a time, one package at a time.

A mutation takes or gives exactly one of the services that the fleet file allows a decky `sometimes`; what it always
offers, its card, accounts, seed and worker stay. Its worker makes it anew in its place, so what a visitor left on it is
gone: one in use is left alone unless that is forced. One that changed lately is left alone always: a service that
comes and goes tells a decoy. Which deckies and which services follow from the seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random

from decnet_core.errors import Conflict, NotFound
from decnet_master.planning.requests import FleetChange, Placement
from decnet_master.planning.rooms import some
from decnet_master.terms import Terms

MIN_AGE = timedelta(days=7)
"""Between two mutations of a decky. Machines get and lose services in weeks, and a visitor comes back within days."""

MAX_SERVICES = 32
"""Of a decky; its contract says so."""


@dataclass(frozen=True, slots=True)
class MutationRequest:
    """What is asked for.

    Attributes:
        count: so many deckies change at most; where some are named, None is all of those.
        names: only these; none means any.
        force: also those in use.
    """

    count: int | None = None
    names: tuple[str, ...] = ()
    force: bool = False


def plan_mutation(
    request: MutationRequest,
    active: Collection[str],
    current: Sequence[Placement],
    in_use: Collection[tuple[str, str]],
    *,
    seed: int,
    now: datetime,
) -> FleetChange:
    """Plan it.

    Args:
        request: what is asked for.
        active: the workers that are spoken to.
        current: the whole fleet, whoever runs it.
        in_use: worker and name of each decky that has a visitor.
        seed: of all that is drawn.
        now: when it is done.

    Raises:
        NotFound: a name is no decky's.
        Conflict: one that is named may not change now, or none may.
    """
    there = {placement.decky.name: placement for placement in current}
    if unknown := set(request.names) - set(there):
        raise NotFound(f"No decky is called {some(unknown)}", "`decnet-master deckies` lists them.")
    asked = [there[name] for name in sorted(set(request.names) or there)]
    held = {placement.decky.name: _held(placement, active, () if request.force else in_use, now) for placement in asked}
    free = [placement for placement in asked if held[placement.decky.name] is None]
    if not free or (request.names and len(free) < len(asked)):
        raise _refusal(held, named=bool(request.names))
    rng = Random(seed)  # noqa: S311 -- a disguise, not a secret, and it must be repeatable
    count = request.count if request.count is not None else len(free) if request.names else 1
    chosen = sorted(rng.sample(free, min(count, len(free))), key=lambda placement: placement.decky.name)
    changed = tuple(_mutated(placement, rng, now) for placement in chosen)
    return FleetChange(changed=changed, kept=len(current) - len(changed))


def _held(
    placement: Placement,
    active: Collection[str],
    in_use: Collection[tuple[str, str]],
    now: datetime,
) -> str | None:
    """Say why a decky stays as it is; None if it may change."""
    if not _options(placement):
        return "fixed by the fleet file, or never declared in one"
    if placement.host not in active:
        return "on a worker that is not active"
    at = placement.terms.mutated_at
    if at is not None and now - at < MIN_AGE:
        return f"mutated less than {MIN_AGE.days} days ago"
    if (placement.host, placement.decky.name) in in_use:
        return "in use"
    return None


def _refusal(held: dict[str, str | None], *, named: bool) -> Conflict:
    reasons = {name: why for name, why in held.items() if why is not None}
    advice = "`sometimes` in the fleet file says what a decky may gain; --force takes also those in use."
    if named:
        name, why = next(iter(reasons.items()))
        more = f", and {len(reasons) - 1} more are held" if len(reasons) > 1 else ""
        return Conflict(f"{name} does not mutate now: {why}{more}", advice)
    counts = "; ".join(f"{count} {why}" for why, count in sorted(Counter(reasons.values()).items()))
    return Conflict(f"No decky may mutate now{': ' * bool(counts)}{counts}", advice)


def _options(placement: Placement) -> list[tuple[str, ...]]:
    """All sets of services that are one step away."""
    has = placement.decky.services
    options = []
    for service in placement.terms.sometimes:
        if service not in has:
            options += [(*has, service)] * (len(has) < MAX_SERVICES)
        elif len(has) > 1:
            options.append(tuple(other for other in has if other != service))
    return options


def _mutated(placement: Placement, rng: Random, now: datetime) -> Placement:
    spec = placement.decky.model_copy(update={"services": rng.choice(_options(placement))})
    return replace(placement, decky=spec, terms=Terms(placement.terms.sometimes, now))
