"""Reports are written in groups: nobody is told before the disk has it, and one that fails fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from decnet_core.errors import DecnetError, LocalProtocolError, RetryLater
from decnet_core.fleet import DeckyPhase, DeckySpec, DeckyState, ShardReport
from decnet_master.store import Store
from decnet_master.swarmctl.recording import AT_ONCE, Recorder


def report(host: str) -> ShardReport:
    return ShardReport(host=host, generation=1)


@dataclass
class Gate:
    """A fleet whose transactions end when they are let."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    batches: list[list[str]] = field(default_factory=list)
    refuses: dict[str, DecnetError] = field(default_factory=dict)

    @property
    def fleet(self) -> Gate:
        return self

    async def record_all(self, reports: Sequence[ShardReport], answered_at: datetime) -> None:
        assert answered_at <= datetime.now(UTC)
        self.batches.append([one.host for one in reports])
        await self.open.wait()
        for one in reports:
            if one.host in self.refuses:
                raise self.refuses[one.host]


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def told(recorder: Recorder, *hosts: str) -> list[BaseException | None]:
    async with asyncio.timeout(60):
        return await asyncio.gather(*(recorder.record(report(host)) for host in hosts), return_exceptions=True)


async def test_what_comes_meanwhile_is_written_together(gate):
    recorder = Recorder(gate)
    first = asyncio.create_task(recorder.record(report("first")))
    while not gate.batches:
        await asyncio.sleep(0)
    others = [f"w{number}" for number in range(2 * AT_ONCE)]
    waiting = asyncio.create_task(told(recorder, *others))
    for _ in range(10):
        await asyncio.sleep(0)
    assert gate.batches == [["first"]]
    assert not first.done()
    gate.open.set()
    await first
    assert await waiting == [None] * len(others)
    assert gate.batches[1:] == [others[:AT_ONCE], others[AT_ONCE:]]


async def test_one_that_is_refused_is_refused_alone(gate):
    gate.open.set()
    gate.refuses["bad"] = LocalProtocolError("It does not fit")
    answers = await told(Recorder(gate), "good", "bad", "better")
    assert answers == [None, gate.refuses["bad"], None]


async def test_a_database_that_is_away_is_asked_once(gate):
    gate.open.set()
    gate.refuses["w1"] = RetryLater("The database is away", "Wait.")
    assert await told(Recorder(gate), "w1", "w2") == [gate.refuses["w1"]] * 2
    assert gate.batches == [["w1", "w2"]]


async def test_who_gives_up_takes_nobody_s_report(gate):
    recorder = Recorder(gate)
    gone, stays = (asyncio.create_task(recorder.record(report(name))) for name in ("gone", "stays"))
    while not gate.batches:
        await asyncio.sleep(0)
    gone.cancel()
    gate.open.set()
    async with asyncio.timeout(60):
        await stays
    assert gate.batches == [["gone", "stays"]]


async def test_closed_it_lets_everybody_go(gate):
    recorder = Recorder(gate)
    waiting = [asyncio.create_task(recorder.record(report(name))) for name in ("w1", "w2")]
    while not gate.batches:
        await asyncio.sleep(0)
    await recorder.close()
    async with asyncio.timeout(60):
        await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)


async def test_a_group_is_one_transaction_and_each_of_it_as_by_itself(store: Store):
    now = datetime.now(UTC)
    for name in ("w1", "w2"):
        await store.hosts.create(name, f"{name:0>16}", "hash", now, now)
    first, second = [await store.fleet.next_generation(now) for _ in range(2)]
    specs = [("w1", "a"), ("w1", "b"), ("w2", "c"), ("w2", "d")]
    await store.fleet.place(first, [(host, DeckySpec(name=name, services=("ssh",))) for host, name in specs])
    await store.fleet.place(second, [(host, DeckySpec(name=name, services=("ssh",))) for host, name in specs[::2]])
    recorder = Recorder(store)
    states = {name: DeckyState(name=name, phase=DeckyPhase.RUNNING) for _, name in specs}
    up = ShardReport(host="w1", generation=second, deckies=(states["a"],), removed=("b",))
    old = ShardReport(host="w2", generation=first, deckies=(states["c"],))  # of before d was given up
    await asyncio.gather(recorder.record(up), recorder.record(old))
    placed = {decky.spec.name: decky.phase for decky in await store.fleet.current()}
    assert placed == {"a": DeckyPhase.RUNNING, "c": DeckyPhase.RUNNING}
    assert [decky.spec.name for decky in await store.fleet.lingering()] == ["d"]
    assert all(host.seen_at is not None and host.seen_at >= now for host in await store.hosts.list())
