"""Many questions whether a certificate is current are few queries, each as fresh as one of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from decnet_core.errors import Unavailable
from decnet_core.identity import Identity, Role
from decnet_master.swarmctl.currency import CurrentCertificates, Question


@dataclass
class SlowCertificates:
    """A room of the store whose answers take until they are let go."""

    current: set[Question] = field(default_factory=set)
    asked: list[frozenset[Question]] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    fails: bool = False

    async def current_among(self, presented: Collection[Question], _now: datetime) -> frozenset[Question]:
        self.asked.append(frozenset(presented))
        seen = frozenset(self.current)
        await self.go.wait()
        if self.fails:
            raise Unavailable("The database is away")
        return seen & frozenset(presented)


@dataclass
class OnlyCertificates:
    certificates: SlowCertificates


def question(number: int) -> Question:
    return Identity(Role.AGENT, f"w{number}"), f"{number:064x}"


async def asking(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_asked_during_a_query_is_asked_together_after_it() -> None:
    room = SlowCertificates({question(number) for number in range(0, 200, 2)})
    current = CurrentCertificates(OnlyCertificates(room))  # type: ignore[arg-type]
    first = asyncio.create_task(current(*question(0)))
    await asking(3)
    others = [asyncio.create_task(current(*question(number % 200))) for number in range(400)]
    await asking(3)
    assert len(room.asked) == 1, "one query is under way"
    room.current.discard(question(2))  # revoked while the first query is under way, before the second begins
    room.go.set()
    answers = await asyncio.gather(*others)
    assert await first
    assert [number for number in range(200) if answers[number]] == [0, *range(4, 200, 2)]
    assert answers[:200] == answers[200:]
    assert [len(asked) for asked in room.asked] == [1, 200]


async def test_a_database_that_is_away_is_told_to_all_who_asked_and_to_nobody_else() -> None:
    room = SlowCertificates({question(1)}, fails=True)
    room.go.set()
    current = CurrentCertificates(OnlyCertificates(room))  # type: ignore[arg-type]
    failed = await asyncio.gather(*(current(*question(1)) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in failed] == [Unavailable] * 3
    room.fails = False
    assert await current(*question(1))


async def test_who_asks_and_leaves_takes_the_answer_from_nobody() -> None:
    room = SlowCertificates({question(1)})
    current = CurrentCertificates(OnlyCertificates(room))  # type: ignore[arg-type]
    leaves, stays = (asyncio.create_task(current(*question(1))) for _ in range(2))
    await asking(3)
    leaves.cancel()
    room.go.set()
    assert await stays
    with pytest.raises(asyncio.CancelledError):
        await leaves
