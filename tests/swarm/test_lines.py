"""A worker's line: one thing at a time, the newest next, and no hanging for ever."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from decnet_core.errors import Conflict, DecnetError, TrustError, Unavailable
from decnet_core.fleet import Shard, ShardReport
from decnet_master.store import Host, HostStatus
from decnet_master.swarmctl.lines import MISSES, Job, Lines

PROBE_SECS = 0.01


def host(name: str = "w1") -> Host:
    return Host(name, HostStatus.ACTIVE, "192.0.2.1", 8765, 8766, "0.1.0", datetime.now(UTC), None, None)


def job(generation: int, name: str = "w1") -> Job:
    return Job(host(name), Shard(generation=generation, deckies=()), removing=False)


class Worker:
    """Answers when it is told to, and shows signs of life while `alive`."""

    def __init__(self) -> None:
        self.alive: DecnetError | None = None
        self.sent: list[int] = []
        self.probes = 0
        self.go = asyncio.Event()
        self.cancelled = 0

    async def send(self, job: Job) -> ShardReport:
        self.sent.append(job.shard.generation)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return ShardReport(host=job.host.name, generation=job.shard.generation, deckies=(), removed=())

    async def probe(self, _host: Host) -> None:
        self.probes += 1
        if self.alive is not None:
            raise self.alive


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
async def lines(worker: Worker):
    lines = Lines(worker.send, worker.probe, PROBE_SECS)
    yield lines
    await lines.close()
    assert lines.busy() == frozenset()


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_only_the_newest_of_what_waits_is_sent(lines: Lines, worker: Worker) -> None:
    jobs = [job(generation) for generation in (1, 2, 3)]
    assert lines.put(jobs[0])
    await until(lambda: worker.sent)
    assert [lines.put(each) for each in jobs[1:]] == [False, False]
    assert lines.working_on("w1") == 1
    with pytest.raises(Conflict, match="newer state"):
        await jobs[1].done
    worker.go.set()
    assert (await jobs[0].done).generation == 1
    assert (await jobs[2].done).generation == 3
    assert worker.sent == [1, 3]


async def test_a_worker_without_a_sign_of_life_is_given_up(lines: Lines, worker: Worker) -> None:
    worker.alive = Unavailable("nobody there")
    first, second = job(1), job(2)
    lines.put(first)
    await until(lambda: worker.sent)
    lines.put(second)
    with pytest.raises(Unavailable, match="stopped answering while it worked on generation 1"):
        await asyncio.wait_for(asyncio.shield(first.done), 5)
    assert worker.probes >= MISSES
    await until(lambda: worker.sent == [1, 2])
    assert worker.cancelled == 1


async def test_a_worker_that_is_slow_and_alive_is_waited_for(lines: Lines, worker: Worker) -> None:
    slow = job(1)
    lines.put(slow)
    await until(lambda: worker.probes > 3 * MISSES)
    assert not slow.done.done()
    worker.go.set()
    assert (await slow.done).generation == 1


async def test_who_has_not_got_it_yet_is_not_asked() -> None:
    """What waits for a place is with nobody: the worker cannot answer for it, and is not given up for it."""

    class Queued(Worker):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[str] = []

        async def send(self, job: Job) -> ShardReport:
            job.is_there = job.host.name == "w1"
            return await super().send(job)

        async def probe(self, host: Host) -> None:
            self.asked.append(host.name)

    worker = Queued()
    lines = Lines(worker.send, worker.probe, PROBE_SECS)
    jobs = [job(1, "w2"), job(1, "w1")]
    for each in jobs:
        lines.put(each)
    await until(lambda: len(worker.asked) > 3 * MISSES)
    assert set(worker.asked) == {"w1"}
    worker.go.set()
    assert [(await each.done).host for each in jobs] == ["w2", "w1"]
    await lines.close()


async def test_who_answers_and_is_somebody_else_ends_it_at_once(lines: Lines, worker: Worker) -> None:
    worker.alive = TrustError("another answers")
    one = job(1)
    lines.put(one)
    with pytest.raises(TrustError, match="another"):
        await asyncio.wait_for(asyncio.shield(one.done), 5)
    assert worker.probes == 1


async def test_another_workers_line_is_its_own(lines: Lines) -> None:
    lines.put(job(1))
    assert lines.put(job(1, "w2"))
    await until(lambda: lines.busy() == {"w1", "w2"})
    lines.drop("w1")
    await until(lambda: lines.busy() == {"w2"})
    lines.drop("w9")


async def test_what_is_dropped_is_told(lines: Lines, worker: Worker) -> None:
    first, second = job(1), job(2)
    lines.put(first)
    await until(lambda: worker.sent)
    lines.put(second)
    lines.drop("w1")
    for each in (first, second):
        with pytest.raises(Unavailable, match="decommissioned meanwhile"):
            await asyncio.wait_for(asyncio.shield(each.done), 5)
    assert worker.sent == [1]
    assert lines.put(job(3))
