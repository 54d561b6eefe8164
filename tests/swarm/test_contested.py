"""A decky whose address another machine has too: told, kept, and mended by sending the worker its shard."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from decnet_core.fleet import AgentStatus, DeckyPhase, DeckySpec, DeckyState
from decnet_master.store.fleet import PlacedDecky, WorkerFleet
from decnet_master.swarmctl.drift import Cure, Deviation, Kind, cure, deviations, news

STRANGER = "3c:d9:2b:00:00:01"
SPEC = DeckySpec(name="web", services=("ssh",), ip="10.0.0.7")


def state(contested_by: str | None) -> DeckyState:
    # at another address than was asked for, which alone is no deviation
    return DeckyState(
        name="web",
        phase=DeckyPhase.RUNNING,
        services=("ssh",),
        ip="10.0.0.9",
        moved_from="10.0.0.7",
        moved_because=f"{STRANGER} has it",
        contested_by=contested_by,
    )


@pytest.mark.parametrize(
    ("seen", "known", "found", "what_to_do", "is_news"),
    [
        (None, None, (), Cure.NOTHING, False),
        (STRANGER, None, (f"web shares the address 10.0.0.9 with {STRANGER}",), Cure.SEND, True),
        (STRANGER, STRANGER, (f"web shares the address 10.0.0.9 with {STRANGER}",), Cure.SEND, False),
        (None, STRANGER, (), Cure.NOTHING, True),
    ],
)
def test_a_contested_address_is_a_deviation_that_sending_mends(seen, known, found, what_to_do, is_news):
    placed = PlacedDecky("w1", SPEC, DeckyPhase.RUNNING, "10.0.0.9", None, None, 4, contested_by=known)
    fleet = WorkerFleet(wanted=(placed,))
    status = AgentStatus(host="w1", version="0.1.0", generation=4, deckies=(state(seen),), at=datetime.now(UTC))
    deviating = deviations(4, fleet, status)
    assert deviating == tuple(Deviation(Kind.OTHER, words, "web") for words in found)
    assert cure(deviating, 4) is what_to_do
    assert news(fleet, status) == (status.deckies if is_news else ())
