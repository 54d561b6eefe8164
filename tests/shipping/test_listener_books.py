"""What the listener knows of its workers: who may ship, what each did, what waits, and what it says when it is full."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from decnet_core.errors import RetryLater
from decnet_core.identity import Identity, Role
from decnet_core.peer import Peer
from decnet_logship.state import read
from decnet_master.journal.backlog import SPANS, Backlog, Span, count_between
from decnet_master.journal.quota import Quota
from decnet_master.journal.reader import START, JournalReader, Position
from decnet_master.journal.segments import segment_path
from decnet_master.journal.writer import JournalWriter
from decnet_master.listener.ledger import Ledger
from decnet_master.listener.reporter import Reporter
from decnet_master.listener.roll import Caller, Roll
from decnet_master.listener.server import ServerLimits
from decnet_master.store import Store
from decnet_master.store.doorbook import DoorBook
from tests.journal.blocks import block, hole
from tests.shipping.place import Log, Place, streams
from tests.shipping.receiving import WAIT_SECS, reached, receiving
from tests.shipping.test_shipping import settings_of, shipping

PEER = Peer(Identity(Role.LOGSHIP, "w1"), "f" * 64, "192.0.2.1")
AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.at = AT

    def __call__(self) -> float:
        return self.at.timestamp()

    def pass_secs(self, secs: float) -> datetime:
        self.at += timedelta(seconds=secs)
        return self.at


class Database:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Collection[Caller]] = []
        self.free = asyncio.Event()
        self.fails = False

    async def active(self, callers: Collection[Caller]) -> set[Caller]:
        self.asked.append(callers)
        await self.free.wait()
        if self.fails:
            raise RetryLater("away", "wait")
        return {one for one in callers if one[0] != "stranger"}


async def test_a_storm_of_callers_is_a_few_questions() -> None:
    database = Database()
    roll = Roll(database.active)
    first = asyncio.create_task(roll.is_active(("w0", "f")))
    await reached(lambda: len(database.asked) == 1, "the first question")
    storm = [asyncio.create_task(roll.is_active((f"w{number}", "f"))) for number in range(1, 1000)]
    stranger = asyncio.create_task(roll.is_active(("stranger", "f")))
    await asyncio.sleep(0)
    storm.pop().cancel()
    database.free.set()
    assert await first
    assert all(await asyncio.gather(*storm))
    assert not await stranger
    assert [len(callers) for callers in database.asked] == [1, 1000]


async def test_a_question_that_fails_fails_for_those_who_asked_it_alone() -> None:
    database = Database()
    roll = Roll(database.active)
    database.free.set()
    database.fails = True
    with pytest.raises(RetryLater):
        await roll.is_active(("w1", "f"))
    database.fails = False
    assert await roll.is_active(("w1", "f"))


def test_the_ledger_adds_up_and_forgets_only_what_was_written() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    ledger.connected(PEER, AT)
    ledger.resumed("w1", "s1", 100)
    ledger.durable("w1", "s1", 400, 3, 300)
    said = clock.pass_secs(1)
    ledger.durable("w1", "s1", 500, 0, 100)
    ledger.acknowledged("w1", "s1", 500)
    workers, files = ledger.entries()
    (one,), (file,) = workers, files
    assert (one.connected, one.stream, one.connections, one.address) == (True, "s1", 1, "192.0.2.1")
    assert (one.lines, one.bytes, one.skips, one.line_at, one.acked_at) == (3, 400, 1, AT, said)
    assert (file.durable_offset, file.lines, file.bytes, file.skips) == (500, 3, 400, 1)
    ledger.durable("w1", "s1", 600, 1, 100)  # while the report is under way
    ledger.rejected("w1", is_gap=True)
    ledger.written(workers, files)
    workers, files = ledger.entries()
    (one,), (file,) = workers, files
    assert (one.lines, one.bytes, one.skips, one.connections, one.gaps) == (1, 100, 0, 0, 1)
    assert (file.durable_offset, file.lines) == (600, 1)
    ledger.written(workers, files)
    assert ledger.entries() == ([], [])


def test_a_report_that_failed_is_made_again_with_more() -> None:
    ledger = Ledger(Clock())
    ledger.connected(PEER, None)
    ledger.durable("w1", "s1", 10, 1, 10)
    ledger.entries()  # and the database is away
    ledger.durable("w1", "s1", 20, 1, 10)
    (one,), (file,) = ledger.entries()
    assert (one.lines, file.lines, file.durable_offset) == (2, 2, 20)


def test_a_worker_is_connected_until_its_last_connection_ends() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    for _ in range(2):
        ledger.connected(PEER, None)
    clock.pass_secs(10)
    ledger.disconnected("w1")
    (one,), _ = ledger.entries()
    assert (one.connected, one.changed_at, one.connections) == (True, AT, 2)
    ended = clock.pass_secs(1)
    ledger.disconnected("w1")
    (one,), _ = ledger.entries()
    assert (one.connected, one.changed_at) == (False, ended)


def test_the_backlog_is_what_the_ingester_has_not_stored(tmp_path) -> None:
    writer, backlog, ends = JournalWriter.open(tmp_path, segment_bytes=400), Backlog(), []
    began = writer.end
    for number in range(10):
        lines = [b"line %d of three" % number] * 3
        blocks = [block(number * 48, *lines), hole(number, number + 1, "s2")]
        size_bytes = writer.append(blocks)
        backlog.add(Span(writer.end, 3, size_bytes))
        ends.append(writer.end)
    assert backlog.lines == 30
    for number, end in enumerate(ends, 1):
        counted = count_between(tmp_path, end, ends[-1])
        backlog.stored(end)
        assert backlog.lines == counted.lines == 30 - 3 * number
    assert (backlog.lines, backlog.bytes) == (0, 0)
    counted = count_between(tmp_path, START, ends[-1])
    assert counted.lines == 30
    counted.stored(ends[4])
    assert counted.lines == 15
    later = Backlog()
    later.add(Span(Position(99, 0), 7, 70))
    later.precede(counted)
    later.stored(ends[-1])
    assert (later.lines, later.bytes) == (7, 70)
    assert began < ends[0]
    writer.close()


def test_a_long_backlog_is_counted_in_bounded_memory() -> None:
    backlog = Backlog()
    for number in range(3 * SPANS):
        backlog.add(Span(Position(1, number), 2, 20))
        assert len(backlog._spans) <= SPANS
    assert backlog.lines == 6 * SPANS
    backlog.stored(Position(1, 3 * SPANS - 1))
    assert (backlog.lines, backlog.bytes) == (0, 0)


async def test_all_live_connections_are_one_question(place: Place) -> None:
    log = Log(place.log_path)
    async with receiving(place, limits=ServerLimits(muster_secs=0.01)) as master:
        await asyncio.sleep(0.1)
        assert master.books.questions == 0  # nobody is there to ask about
        async with shipping(place, master.endpoint):
            await reached(lambda: streams(place.journal) == log.written, "the log")
            asked = master.books.questions
            await reached(lambda: master.books.questions > asked + 3, "the next questions")


@pytest.mark.slow  # it waits for what a sender writes down each second
async def test_above_the_quota_the_sender_is_told_and_it_goes_on_by_itself(place: Place) -> None:
    log = Log(place.log_path)
    log.write(*[b"%0999d" % number for number in range(12_000)])
    quota, limits = Quota(limit_bytes=8 << 20), ServerLimits(tick_secs=0.02, stall_secs=0.05)
    async with receiving(place, limits=limits, quota=quota, segment_bytes=1 << 20) as master:
        async with shipping(place, master.endpoint):
            await reached(lambda: "journal or disk is full" in _said_to_sender(place), "a word to the sender")
            assert master.server.committer.stalled is not None
            assert "journal-quota-mib" in master.server.committer.stalled.advice
            reader, position, taken = JournalReader(place.journal), START, list[bytes]()
            async with asyncio.timeout(WAIT_SECS):
                while len(taken) < 12_001:  # the ingester is back
                    for batch in reader.read(position, 1 << 20):
                        taken += batch.lines
                        position = batch.next
                    reader.delete_before(position)
                    await asyncio.sleep(0.01)
            assert taken == log.written[log.generation]
        await reached(lambda: master.server.committer.stalled is None, "recovery")


def _said_to_sender(place: Place) -> str:
    path = settings_of(place).state_file
    told: str = read(path)["logs"][0]["last_error"] if path.exists() else ""
    return told


async def test_what_workers_did_stands_in_the_database(place: Place) -> None:
    await place._enrol_in_database()
    url = f"sqlite+aiosqlite:///{place.master_data / 'decnet.sqlite3'}"
    log = Log(place.log_path)
    log.write(b"one", b"two")
    async with await DoorBook.open(url) as book, await Store.open(url) as store, receiving(place) as master:
        reporter = reporter_of(book, master, place)
        async with shipping(place, master.endpoint):
            await reached(lambda: streams(place.journal) == log.written, "the log")
            task = asyncio.create_task(reporter.run())
            seen = await until_seen(store, 3)
            assert (seen.listening, seen.workers[0].connected) == (True, True)
        await reached(lambda: master.server.connections == 0, "the end of the connection")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # the last report
        seen = await store.shipping.overview(datetime.now(UTC))
    (one,) = seen.workers
    assert (one.host, one.connected, one.connections, one.lines, one.gaps, one.repeats) == ("w1", False, 1, 3, 0, 0)
    assert (one.address, one.stream, one.certificate_ends_at) == (
        "127.0.0.1",
        log.generation,
        place.shipper.not_after.replace(microsecond=0),
    )
    assert [(file.stream, file.durable_offset) for file in one.streams] == [
        (log.generation, place.log_path.stat().st_size)
    ]
    assert seen.listener is not None
    assert (seen.listener.backlog_lines, seen.listener.stalled, seen.listener.accepted) == (3, None, 1)
    assert seen.listener.backlog_bytes > place.log_path.stat().st_size
    assert seen.listener.waits_since is not None


async def test_it_is_reported_while_what_waited_before_is_still_counted(place: Place) -> None:
    """Nobody must take a listener for dead that reads through gigabytes of backlog."""
    await place._enrol_in_database()
    url = f"sqlite+aiosqlite:///{place.master_data / 'decnet.sqlite3'}"
    log = Log(place.log_path)
    log.write(b"one", b"two")
    async with (
        await DoorBook.open(url) as book,
        await Store.open(url) as store,
        receiving(place, segment_bytes=1) as master,
        shipping(place, master.endpoint),
    ):
        await reached(lambda: streams(place.journal) == log.written, "the log")
        oldest = segment_path(place.journal, 1)
        oldest.unlink()
        os.mkfifo(oldest)  # whoever opens it to read it waits for somebody who writes
        task = asyncio.create_task(reporter_of(book, master, place).run())
        try:
            seen = await until_seen(store, 3)
            assert seen.listening
            assert not task.done()
        finally:
            os.close(await asyncio.to_thread(os.open, oldest, os.O_WRONLY))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_a_count_that_nobody_waits_for_any_more_ends(tmp_path: Path) -> None:
    writer, at = JournalWriter.open(tmp_path), 0
    for _ in range(5):
        writer.append([block(at, b"x" * 99)])
        at += 100
    asked = iter([True, True, False])
    assert count_between(tmp_path, START, writer.end, lambda: next(asked)).lines == 2  # behind the segment's head
    writer.close()


def reporter_of(book: DoorBook, master, place: Place) -> Reporter:
    return Reporter(
        book,
        master.ledger,
        master.progress,
        folder=place.journal,
        quota=Quota(),
        end=lambda: master.writer.end,
        connections=lambda: master.server.connections,
        stalled=lambda: master.server.committer.stalled,
        counts=master.server.counts,
    )


async def until_seen(store: Store, lines: int):
    async with asyncio.timeout(20):
        while True:
            seen = await store.shipping.overview(datetime.now(UTC))
            if seen.workers and seen.workers[0].lines == lines:
                return seen
            await asyncio.sleep(0.01)
