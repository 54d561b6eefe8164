"""The seed of a plan, and a plan's id: so that what was shown is what is done.

The seed follows from what is asked for, from the generation that the fleet has, and from the master's own secret. So
the same request draws the same deckies until the fleet changes; after a change it draws others, and another master
draws others again. The id is a digest of what the plan does, down to cards and accounts; whoever hands it back gets
this plan or none.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from decnet_master.planning.requests import FleetChange, Placement

ID_CHARS = 16
"""64 bits tell a plan from the one that the fleet would get now; nobody gains by finding another with the same id."""


def seed_for(secret: str, generation: int, request: str) -> int:
    """Return the seed of a request's plan.

    Args:
        secret: the master's.
        generation: that the fleet has now.
        request: in words that are the same for the same request.
    """
    words = f"{generation} {request}".encode()
    return int.from_bytes(hmac.digest(secret.encode(), words, hashlib.sha256)[:8], "big")


def plan_id(change: FleetChange) -> str:
    """Return the id of what a plan does, hex digits."""
    digest = hashlib.sha256()
    for what, placements in (("add", change.added), ("change", change.changed), ("remove", change.removed)):
        for line in _lines(what, placements):
            digest.update(line.encode())
    for placement in change.allowed:
        digest.update(f"allow {placement.decky.name} {' '.join(placement.terms.sometimes)}\n".encode())
    return digest.hexdigest()[:ID_CHARS]


def _lines(what: str, placements: Iterable[Placement]) -> Iterable[str]:
    # No field holds a line end: names and JSON without raw control characters.
    return (f"{what} {placement.host} {placement.decky.model_dump_json()}\n" for placement in placements)
