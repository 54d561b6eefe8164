"""Twenty deckies at once on an engine in memory: whatever ends it, and whoever fails, the next time converges."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from decnet_agent.app import Agent
from decnet_agent.deploying.bringing_up import AT_ONCE
from decnet_core.fleet import DeckyPhase, DeckySpec, Shard
from tests.swarm.simulated_engine import SimulatedEngine, real_agent

NAMES = [f"d{number:02}" for number in range(20)]
WANTED = Shard(generation=1, deckies=tuple(DeckySpec(name=name, services=("ssh",)) for name in NAMES))


class Killed(BaseException):
    """The agent ends here."""


@pytest.fixture
def engine() -> SimulatedEngine:
    return SimulatedEngine()


@pytest.fixture
def agent(engine: SimulatedEngine, tmp_path: Path) -> Iterator[Agent]:
    agent = real_agent("w1", engine, tmp_path)
    yield agent
    agent.executor.close()


@pytest.mark.parametrize(("point", "call"), [("create", 1), ("create", 11), ("start", 1), ("start", 13), ("probe", 2)])
async def test_killed_in_the_middle_it_converges(engine, agent, tmp_path, point, call):
    real, numbers = getattr(engine, point), itertools.count(1)
    under_way, ended = 0, False
    turn = threading.Lock()

    def step(*arguments: object) -> object:
        nonlocal under_way
        assert not ended, "a step was begun after the end"
        if next(numbers) == call:
            raise Killed
        with turn:
            under_way += 1
        try:
            return real(*arguments)
        finally:
            with turn:
                under_way -= 1

    setattr(engine, point, step)
    with pytest.raises(Killed):
        await agent.apply(WANTED)
    ended = True
    assert under_way == 0, "nothing works on when it has ended"
    given = {name: (each.ip, each.mac) for name, each in agent.executor.assignments.items()}
    setattr(engine, point, real)
    second = real_agent("w1", engine, tmp_path)
    try:
        report = await second.apply(WANTED)
        assert report.ok, report
        assert {state.name: (state.ip, state.mac) for state in report.deckies} == given
        assert (await second.apply(WANTED)).deckies == report.deckies
    finally:
        second.executor.close()


async def test_each_failure_is_told_of_its_own_decky(engine, agent):
    engine.broken = {NAMES[3], NAMES[17]}
    report = await agent.apply(WANTED)
    failed = {state.name: state.error for state in report.deckies if state.phase is not DeckyPhase.RUNNING}
    assert failed == dict.fromkeys(engine.broken, "the image is missing. Deploy again.")
    engine.broken = set()
    assert (await agent.apply(WANTED)).ok


async def test_no_more_at_once_than_the_engine_likes_and_one_question_at_a_time(engine, agent):
    """Every call waits until as many as may are under way with it, so that fewer would never end."""
    together = threading.Barrier(AT_ONCE, timeout=60)
    create, probe, asking = engine.create, engine.probe, threading.Semaphore(1)

    def create_with_others(*arguments: object) -> object:
        together.wait()
        return create(*arguments)

    def probe_alone(*arguments: object) -> object:
        assert asking.acquire(blocking=False), "two questions at once"
        try:
            return probe(*arguments)
        finally:
            asking.release()

    engine.create, engine.probe = create_with_others, probe_alone
    full = Shard(
        generation=1, deckies=WANTED.deckies[: len(NAMES) // AT_ONCE * AT_ONCE]
    )  # nobody is left without others
    async with asyncio.timeout(120):
        assert (await agent.apply(full)).ok
