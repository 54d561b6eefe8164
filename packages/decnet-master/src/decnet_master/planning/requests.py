"""What is asked for, who could run it, and where a decky is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from decnet_core.errors import DecnetError
from decnet_core.fleet import MAX_DECKIES_PER_SHARD, DeckySpec
from decnet_master.terms import FIXED, Terms

MAX_FLEET = 10_000
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
class Candidate:
    """A worker that may run deckies.

    Attributes:
        name: its host name.
        capacity: so many deckies it takes, those that it runs already among them.
        labels: what the operator says of it.
    """

    name: str
    capacity: int = MAX_DECKIES_PER_SHARD
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placement:
    """A decky, the worker that runs it, and what it may become."""

    host: str
    decky: DeckySpec
    terms: Terms = FIXED


@dataclass(frozen=True, slots=True)
class FleetRequest:
    """Deckies that an operator asks for, beside those that there are.

    Attributes:
        count: deckies to add.
        services: of each of them.
        hosts: workers to use; none means every active one.
        name_prefix: names are `<prefix>-01`, … instead of drawn ones.
        labels: only workers with all of these are used.
    """

    count: int
    services: tuple[str, ...] = ("ssh",)
    hosts: tuple[str, ...] = ()
    name_prefix: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeckyGroup:
    """Deckies that a fleet shall have, by name.

    Attributes:
        names: of the deckies; no other group has one of them.
        services, hosts, labels: as in a `FleetRequest`.
        sometimes: services that a mutation may give to and take from them; none of `services`.
    """

    names: tuple[str, ...]
    services: tuple[str, ...] = ("ssh",)
    hosts: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    sometimes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stray:
    """A decky that stays on a worker where it would not be placed now, and why."""

    name: str
    host: str
    why: str


@dataclass(frozen=True, slots=True)
class FleetChange:
    """What a plan does to a fleet.

    Attributes:
        added: new deckies.
        changed: deckies that stay where they are and become something else.
        removed: deckies that go.
        allowed: deckies that stay as they are and may become something else than before; no worker is told.
        kept: so many stay as they are.
        undeclared: names of those among them that nobody asked for.
        strays: deckies that stay where they would not be placed now.
    """

    added: tuple[Placement, ...] = ()
    changed: tuple[Placement, ...] = ()
    removed: tuple[Placement, ...] = ()
    allowed: tuple[Placement, ...] = ()
    kept: int = 0
    undeclared: tuple[str, ...] = ()
    strays: tuple[Stray, ...] = ()

    @property
    def hosts(self) -> frozenset[str]:
        """The workers that it concerns."""
        return frozenset(placement.host for placement in (*self.added, *self.changed, *self.removed))

    def of(self, current: Sequence[Placement]) -> tuple[Placement, ...]:
        """Return the fleet after it."""
        changed = {placement.decky.name: placement for placement in (*self.allowed, *self.changed)}
        removed = {placement.decky.name for placement in self.removed}
        stay = (changed.get(there.decky.name, there) for there in current if there.decky.name not in removed)
        return (*stay, *self.added)
