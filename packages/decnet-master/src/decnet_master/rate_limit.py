"""Slow down whoever asks too often: a bucket of tries for each caller, refilled over time.

In this process alone and bounded in memory: when more callers come than are kept, the one that was quiet for the
longest is forgotten, so that a flood from many addresses cannot grow it. A limit for all callers together stands
beside the limit for each, for floods that do come from many.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from decnet_master.problems import TooManyRequests

MAX_CALLERS = 10_000


class RateLimit:
    """Allows `burst` tries at once and then one each `every_secs`."""

    def __init__(
        self, burst: int, every_secs: float, *, total_factor: int = 20, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Bound each caller; all together may try `total_factor` times as much."""
        self._burst = float(burst)
        self._every_secs = every_secs
        self._total_factor = total_factor
        self._clock = clock
        self._callers: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._total = (self._burst * total_factor, clock())

    def take(self, caller: str) -> None:
        """Count one try.

        Raises:
            TooManyRequests: the caller, or all callers together, tried too often.
        """
        now = self._clock()
        left, since = self._callers.pop(caller, (self._burst, now))
        left = min(self._burst, left + (now - since) / self._every_secs)
        total, total_since = self._total
        largest = self._burst * self._total_factor
        total = min(largest, total + (now - total_since) * self._total_factor / self._every_secs)
        allowed = left >= 1 and total >= 1
        self._callers[caller] = (left - 1 if allowed else left, now)
        self._total = (total - 1 if allowed else total, now)
        if len(self._callers) > MAX_CALLERS:
            self._callers.popitem(last=False)
        if not allowed:
            raise TooManyRequests("Too many tries", "Wait a moment, then try again.")
