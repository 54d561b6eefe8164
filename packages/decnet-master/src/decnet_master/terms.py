"""How a decky may change over time: what its operator allows beside its services, and when it last did.

The master keeps this to itself: a worker is told the services that a decky has now, and nothing of what it may have
(ADR 28).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Terms:
    """What a decky may become.

    Attributes:
        sometimes: services that it may gain and lose, sorted. None of them: what it offers is fixed.
        mutated_at: when a mutation last gave or took one.
    """

    sometimes: tuple[str, ...] = ()
    mutated_at: datetime | None = None


FIXED = Terms()
"""Of a decky that nobody allowed to change."""
