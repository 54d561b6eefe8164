"""What is asked for, who could run it, and where a decky is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from decnet_core.errors import DecnetError
from decnet_core.fleet import MAX_DECKIES_PER_SHARD, DeckySpec

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
    """A decky and the worker that runs it."""

    host: str
    decky: DeckySpec


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
