"""Which worker takes the next decky: the one that runs the fewest of those that may and have room.

Those who may run a decky are the same for many: each set of conditions has one heap of its workers. A load only grows
while a plan is made, so an entry of a heap that another heap's placement made old is found out when it comes up, and
put back where it belongs. Ten thousand deckies over a thousand workers cost ten thousand times the logarithm.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from decnet_core.errors import Conflict, NotFound
from decnet_master.planning.requests import Candidate, NoWorkers, Placement

_NAMED = 5
"""Of many names in a sentence."""

_Conditions = tuple[frozenset[str], frozenset[tuple[str, str]]]


class Rooms:
    """The workers and what they run, as a plan goes on.

    Args:
        candidates: the workers that may be used.
        current: the whole fleet, whoever runs it.
    """

    def __init__(self, candidates: Iterable[Candidate], current: Iterable[Placement]) -> None:
        self._candidates = {candidate.name: candidate for candidate in candidates}
        loads = Counter(placement.host for placement in current)
        self._loads = {name: loads[name] for name in self._candidates}
        self._heaps: dict[_Conditions, list[tuple[int, str]]] = {}

    def require(self, count: int, hosts: Sequence[str], labels: Mapping[str, str]) -> None:
        """See that so many more deckies have room, before any is placed.

        Raises:
            NoWorkers: there is no candidate.
            NotFound: a worker that was named is none, or none has the labels.
            Conflict: there is no room; the message names who is full.
        """
        eligible = self._eligible(hosts, labels)
        room = sum(max(0, self._candidates[name].capacity - self._loads[name]) for name in eligible)
        if count > room:
            raise self._full(count, eligible)

    def take(self, hosts: Sequence[str], labels: Mapping[str, str]) -> str:
        """Give the next decky its worker; raises as `require` does."""
        key = (frozenset(hosts), frozenset(labels.items()))
        heap = self._heaps.get(key)
        if heap is None:
            heap = self._heaps[key] = [(self._loads[name], name) for name in self._eligible(hosts, labels)]
            heapq.heapify(heap)
        while heap:
            load, name = heap[0]
            if load != self._loads[name]:
                heapq.heapreplace(heap, (self._loads[name], name))
            elif load >= self._candidates[name].capacity:
                heapq.heappop(heap)  # full, and it stays so
            else:
                self.put(name)
                return name
        raise self._full(1, self._eligible(hosts, labels))

    def fits(self, name: str, hosts: Sequence[str], labels: Mapping[str, str]) -> bool:
        """Tell whether this worker may run such a decky, whether or not it has room."""
        candidate = self._candidates.get(name)
        return candidate is not None and (not hosts or name in hosts) and labels.items() <= candidate.labels.items()

    def has_room(self, name: str) -> bool:
        """Tell whether this worker takes one more."""
        return self._loads[name] < self._candidates[name].capacity

    def is_active(self, name: str) -> bool:
        """Tell whether this is one of the workers that may be used."""
        return name in self._candidates

    def put(self, name: str) -> None:
        """Count one more decky on this worker."""
        self._loads[name] += 1

    def _eligible(self, hosts: Sequence[str], labels: Mapping[str, str]) -> list[str]:
        if not self._candidates:
            raise NoWorkers
        unknown = set(hosts) - self._candidates.keys()
        if unknown:
            raise NotFound(
                f"No active worker is called {some(unknown)}", "`decnet-master swarm list` shows them and their labels."
            )
        eligible = sorted(name for name in set(hosts) or self._candidates if self.fits(name, hosts, labels))
        if not eligible:
            wanted = " ".join(f"{key}={value}" for key, value in sorted(labels.items()))
            among = f" among {some(set(hosts))}" if hosts else ""
            raise NotFound(
                f"No active worker{among} has the labels {wanted}",
                "`decnet-master swarm label NAME KEY=VALUE` gives one.",
            )
        return eligible

    def _full(self, count: int, eligible: Sequence[str]) -> Conflict:
        full = [name for name in eligible if not self.has_room(name)]
        free = sum(max(0, self._candidates[name].capacity - self._loads[name]) for name in eligible)
        who = ", ".join(f"{name} ({self._loads[name]} of {self._candidates[name].capacity})" for name in full[:_NAMED])
        more = f" and {len(full) - _NAMED} more" if len(full) > _NAMED else ""
        named = f"; full: {who}{more}" if full else ""
        return Conflict(
            f"There is no room for {count} more deckies: the workers that may run them have room for {free}{named}",
            "Enrol a worker, or raise a capacity: `decnet-master swarm set NAME --capacity N`.",
        )


def some(names: Iterable[str]) -> str:
    """Write some of many names."""
    ordered = sorted(names)
    return ", ".join(ordered[:_NAMED]) + (f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else "")
