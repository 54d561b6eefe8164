"""How a worker differs from what it shall be.

Pure: what is placed on a worker and what its agent says go in, deviations come out; none means that the worker is as it
shall be. `cure` says what to do about them, `news` which deckies are not as they were last known.

An address is the worker's to choose where the one that was asked for does not fit, so that another one is no deviation;
one that another decky of the worker or another machine on its LAN has as well is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from decnet_core.fleet import AgentStatus, DeckyPhase, DeckySpec, DeckyState
from decnet_core.logs import shown
from decnet_master.store import PlacedDecky, WorkerFleet

MAX_REASON_CHARS = 160


class Kind(Enum):
    """What a deviation is."""

    OLDER = "older"
    """It has not heard of the newest generation that concerns it."""
    NEWER = "newer"
    """It has heard of a generation that was never placed: this database is older than that worker."""
    MISSING = "missing"
    """It knows nothing of a decky that it shall run."""
    UNWANTED = "unwanted"
    """It runs one that it shall not."""
    DOWN = "down"
    """A decky does not run."""
    OTHER = "other"
    """A decky runs that is not as it was asked for."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """One thing that is not as it shall be; `decky` is None where it concerns the whole worker."""

    kind: Kind
    words: str
    decky: str | None = None


class Cure(Enum):
    """What to do about deviations."""

    NOTHING = "nothing"
    SEND = "send"
    """Send the worker its shard."""
    LOOK_AGAIN = "look again"
    """Send it when the next look says the same: agents bring deckies back by themselves, within seconds."""
    NONE_KNOWN = "none known"
    """Sending does not help: it would be refused."""


def deviations(newest: int, fleet: WorkerFleet, status: AgentStatus) -> tuple[Deviation, ...]:
    """Compare, the worker first and then its deckies by name.

    Args:
        newest: the newest generation that was placed.
        fleet: what the worker shall run.
        status: what it says.
    """
    found = [*_of_generation(newest, fleet.generation, status.generation)]
    wanted = {decky.spec.name: decky.spec for decky in fleet.wanted}
    there = {state.name: state for state in status.deckies}
    addresses = Counter(state.ip for state in status.deckies if state.ip is not None)
    for name in sorted(wanted.keys() | there.keys()):
        if name not in there:
            found.append(Deviation(Kind.MISSING, f"{name} is not known there", name))
        elif name not in wanted:
            found.append(Deviation(Kind.UNWANTED, f"{name} is there and shall not be", name))
        else:
            found.extend(_of_decky(wanted[name], there[name], addresses))
    return tuple(found)


def cure(found: Sequence[Deviation], newest: int) -> Cure:
    """Tell what to do.

    Args:
        found: by `deviations`.
        newest: the newest generation that was placed; 0 while nothing ever was, and then there is nothing to send.
    """
    kinds = {deviation.kind for deviation in found}
    if not kinds:
        return Cure.NOTHING
    if newest == 0 or Kind.NEWER in kinds:
        return Cure.NONE_KNOWN
    return Cure.LOOK_AGAIN if kinds == {Kind.DOWN} else Cure.SEND


def news(fleet: WorkerFleet, status: AgentStatus) -> tuple[DeckyState, ...]:
    """Return the deckies of an answer that are not as they were last known.

    One that failed and is told to have stopped is no news: why it failed is worth more.
    """
    known = {decky.spec.name: decky for decky in (*fleet.wanted, *fleet.lingering)}
    return tuple(
        state for state in status.deckies if (decky := known.get(state.name)) is not None and _is_news(decky, state)
    )


def _of_generation(newest: int, needed: int, has: int) -> Iterator[Deviation]:
    if has > newest:
        yield Deviation(Kind.NEWER, f"it has generation {has}, and the newest here is {newest}")
    elif has < needed:
        yield Deviation(Kind.OLDER, f"it has generation {has} of {needed}")


def _of_decky(spec: DeckySpec, state: DeckyState, addresses: Counter[IPv4Address]) -> Iterator[Deviation]:
    if state.phase is not DeckyPhase.RUNNING:
        why = f": {shown(state.error, MAX_REASON_CHARS)}" if state.error else ""
        yield Deviation(Kind.DOWN, f"{spec.name} is {state.phase}{why}", spec.name)
        return
    if sorted(set(state.services)) != sorted(set(spec.services)):
        yield Deviation(Kind.OTHER, f"{spec.name} runs {' '.join(state.services) or 'no service'}", spec.name)
    if spec.mac is not None and state.mac is not None and state.mac != spec.mac:
        yield Deviation(Kind.OTHER, f"{spec.name} has the MAC {state.mac} instead of {spec.mac}", spec.name)
    if state.ip is not None and addresses[state.ip] > 1:
        yield Deviation(Kind.OTHER, f"{spec.name} shares the address {state.ip} with another", spec.name)
    if state.contested_by is not None:
        yield Deviation(Kind.OTHER, f"{spec.name} shares the address {state.ip} with {state.contested_by}", spec.name)


def _is_news(decky: PlacedDecky, state: DeckyState) -> bool:
    if decky.phase is DeckyPhase.FAILED and state.phase is DeckyPhase.STOPPED:
        return False
    ip = None if state.ip is None else str(state.ip)
    return (decky.phase, decky.ip, decky.mac, decky.contested_by) != (state.phase, ip, state.mac, state.contested_by)
