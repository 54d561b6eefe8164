"""What strikes, when, and what mends it: a plan that a seed decides, carried out while lines flow.

The plan is dealt like cards, so that a short run meets every kind too: as many SIGKILLs as were asked for, shared
evenly among what can be killed, and two other faults for every three of them, all shuffled. Strikes are `gap_secs`
apart on average, and what they did is mended a random time later: so faults overlap, a daemon is killed again while it
still recovers, and two of them are often down together.

    writer, sender, listener, ingester, database      SIGKILL; started again
    cut, freeze, swallow                              see `link`
    rotate                                            the event log begins another file, beside its rotations by size
    rename, copytruncate                              so does another program's log, as logrotate would have it
    disk                                              the disk under the journal is full
    pause                                             SIGSTOP of a sender, the listener or the ingester, then SIGCONT
"""

from __future__ import annotations

import functools
import heapq
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.fire.foreign import KINDS as FOREIGN_ROTATIONS
from bench.fire.site import Site

PROCESSES = ("writer", "sender", "listener", "ingester")
LONGEST_DOWN_SECS = 1.0
LONGEST_FAULT_SECS = 4.0
"""Of a link or a disk; above the 3 s after which a sender gives a connection up."""

POLL_SECS = 0.01
OTHERS_PER_KILL = 2 / 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What will strike, in order; `gaps_secs` stand before each."""

    kinds: tuple[str, ...]
    gaps_secs: tuple[float, ...]

    @property
    def secs(self) -> float:
        """How long it takes."""
        return sum(self.gaps_secs)


@dataclass(slots=True)
class Struck:
    """What did strike."""

    killed: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)


def deal(draw: random.Random, kills: int, victims: Sequence[str], others: Sequence[str], gap_secs: float) -> Plan:
    """Make a plan.

    Args:
        draw: seeded.
        kills: how many SIGKILLs.
        victims: what can be killed.
        others: the other kinds of faults.
        gap_secs: between two strikes, on average.
    """
    kinds = _hand(draw, kills, victims) + _hand(draw, max(round(kills * OTHERS_PER_KILL), len(others)), others)
    draw.shuffle(kinds)
    return Plan(tuple(kinds), tuple(draw.uniform(0, 2 * gap_secs) for _ in kinds))


def _hand(draw: random.Random, count: int, kinds: Sequence[str]) -> list[str]:
    hand: list[str] = []
    while len(hand) < count:
        hand += draw.sample(kinds, len(kinds))
    return hand[:count]


class Fire:
    """Carries a plan out against a site."""

    def __init__(self, site: Site, plan: Plan, draw: random.Random) -> None:
        self._site = site
        self._plan = plan
        self._draw = draw
        self._mending: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._under_way: set[str] = set()  # faults of link and disk that are not mended yet
        self.struck = Struck()

    def burn(self, tell: Callable[[str], None]) -> None:
        """Strike until the plan is done and everything is mended."""
        next_at = time.monotonic()
        for kind, gap_secs in zip(self._plan.kinds, self._plan.gaps_secs, strict=True):
            next_at += gap_secs
            self._wait(functools.partial(_is_past, next_at))
            name = self._victim(kind)
            tell(name)
            if kind in PROCESSES or kind == "database":
                self._kill(kind, name)
            else:
                self._fault(kind)
        self._wait(lambda: not self._mending)

    def _wait(self, reached: Callable[[], bool]) -> None:
        """Mend what is due and watch over the daemons until a level is reached."""
        while True:
            while self._mending and self._mending[0][0] <= time.monotonic():
                heapq.heappop(self._mending)[2]()
            self._site.watch()
            if reached():
                return
            time.sleep(POLL_SECS)

    def _victim(self, kind: str) -> str:
        if kind in ("writer", "sender"):
            return f"{kind} {self._draw.choice(self._site.workers)}"
        return kind

    def _kill(self, kind: str, name: str) -> None:
        self._wait(lambda: name not in self._site.down)  # nobody dies twice
        if self._site.is_written(name):
            kind, name = "listener", "listener"  # the count of kills is what was asked for
            self._wait(lambda: name not in self._site.down)
        self._site.kill(name)
        self.struck.killed[kind] += 1
        self._mend(LONGEST_DOWN_SECS, lambda: self._site.start_again(name))

    def _fault(self, kind: str) -> None:
        site = self._site
        self._wait(lambda: kind not in self._under_way)
        self.struck.others[kind] += 1
        if kind == "cut":
            site.link.cut()
        elif kind == "rotate":
            site.rotate(self._draw.choice(site.workers))
        elif kind in FOREIGN_ROTATIONS:
            site.rotate_foreign(self._draw.choice(site.workers), kind)
        elif kind == "pause":
            name = self._up(self._draw.choice(PROCESSES[1:]))
            go_on = site.pause(name)
            self._mend(LONGEST_FAULT_SECS, go_on)
        else:
            begin, end = {
                "freeze": (site.link.freeze, site.link.thaw),
                "swallow": (site.link.swallow, site.link.deliver),
                "disk": (site.fill_disk, site.empty_disk),
            }[kind]
            begin()
            self._under_way.add(kind)

            def mended() -> None:
                end()
                self._under_way.discard(kind)

            self._mend(LONGEST_FAULT_SECS, mended)

    def _up(self, kind: str) -> str:
        """Choose a process that runs, and wait for it if it does not."""
        name = self._victim(kind)
        self._wait(lambda: name not in self._site.down)
        return name

    def _mend(self, longest_secs: float, mend: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._mending, (time.monotonic() + self._draw.uniform(0, longest_secs), self._count, mend))


def _is_past(moment: float) -> bool:
    return time.monotonic() >= moment
