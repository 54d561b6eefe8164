"""What the listener writes by the bare drivers is what everybody else reads; silence is told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from decnet_core.errors import ConfigError
from decnet_core.events import check
from decnet_core.fleet import Account, DeckySpec
from decnet_master.journal.reader import START, Position
from decnet_master.store import Store
from decnet_master.store.bare_drivers import _in_libpq_words
from decnet_master.store.doorbook import STREAMS_PER_HOST, DoorBook, ListenerState, StreamReport, WorkerReport
from decnet_master.store.engine import Database, database_url
from decnet_master.store.ingest import DeadLetter
from decnet_master.store.records import Load
from decnet_master.store.schema import events
from decnet_master.store.shipping import STALE
from decnet_master.store.silence import Settled, _heard_event, _silent_event
from tests.store.samples import NOW, enrol, new, redemption

AFTER = timedelta(minutes=5)


def secs(number: float) -> timedelta:
    return timedelta(seconds=number)


def state(at: datetime = NOW, **changes: object) -> ListenerState:
    values = dict.fromkeys(ListenerState.__slots__, 0) | {
        "started_at": NOW,
        "reported_at": at,
        "stalled": None,
        "waits_since": None,
    }
    return ListenerState(**(values | changes))


def worker(heard_at: datetime = NOW, **changes: object) -> WorkerReport:
    report = WorkerReport(
        host="w1",
        connected=True,
        changed_at=NOW,
        stream="s1",
        address="192.0.2.1",
        certificate_ends_at=NOW + AFTER,
        heard_at=heard_at,
        line_at=heard_at,
        acked_at=heard_at,
        lines=3,
        bytes=300,
        connections=1,
    )
    return replace(report, **changes)


def stream(name: str = "s1", at: datetime = NOW, **changes: object) -> StreamReport:
    return replace(StreamReport("w1", name, 300, 3, 300, 0, at, at, at), **changes)


@pytest.fixture
async def book(url: str) -> AsyncIterator[DoorBook]:
    async with await DoorBook.open(url) as book:
        yield book


@pytest.fixture
async def shipping_host(store: Store) -> None:
    """An active host that deckies are placed on."""
    await enrol(store, "w1")
    await store.hosts.redeem("a" * 16, "hash", "digest", NOW, lambda _: redemption())
    spec = DeckySpec(name="d1", services=("ssh",), accounts=(Account(user="root", password="x"),))
    await store.fleet.place(await store.fleet.next_generation(NOW), [("w1", spec)])


async def test_of_many_callers_one_query_names_the_active(store: Store, book: DoorBook, shipping_host: None) -> None:
    del shipping_host
    good = ("w1", "f" * 64)
    strangers = [("w1", f"{number:064x}") for number in range(1200)]
    assert await book.active([good, ("w2", "f" * 64), *strangers]) == {good}
    assert await book.active([]) == set()
    await store.hosts.decommission("w1", NOW)
    assert await book.active([good]) == set()


async def test_reports_add_counts_and_replace_the_rest(store: Store, book: DoorBook, shipping_host: None) -> None:
    del shipping_host
    await book.begin(state())
    await book.report([worker()], [stream()], state())
    later = NOW + secs(5)
    quiet = worker(later, line_at=None, acked_at=None, stream=None, lines=0, bytes=0, connections=0, refusals=2)
    await book.report([quiet], [stream(at=later, durable_offset=500, skips=1)], state(later, journal_bytes=77))
    seen = await store.shipping.overview(later)
    assert seen.listening
    assert seen.listener == state(later, journal_bytes=77)
    (one,) = seen.workers
    assert (one.host, one.connected, one.should_ship, one.silent_since) == ("w1", True, True, None)
    assert (one.heard_at, one.line_at, one.acked_at, one.stream) == (later, NOW, NOW, "s1")
    assert (one.lines, one.bytes, one.connections, one.refusals) == (3, 300, 1, 2)
    assert one.certificate_ends_at == NOW + AFTER
    (file,) = one.streams
    assert (file.durable_offset, file.lines, file.skips, file.heard_at) == (500, 6, 1, later)


async def test_the_streams_of_a_host_are_bounded(store: Store, book: DoorBook, shipping_host: None) -> None:
    del shipping_host
    for number in range(STREAMS_PER_HOST + 3):
        await book.report([worker()], [stream(f"s{number}", NOW + secs(number))], state())
    (one,) = (await store.shipping.overview(NOW)).workers
    assert [file.stream for file in one.streams] == [f"s{number}" for number in range(STREAMS_PER_HOST + 2, 2, -1)]


async def test_nobody_is_connected_to_a_listener_that_is_gone(
    store: Store, book: DoorBook, shipping_host: None
) -> None:
    del shipping_host
    await book.report([worker()], [], state())
    late = await store.shipping.overview(NOW + STALE)
    assert (late.listening, late.workers[0].connected) == (False, False)
    again = NOW + secs(60)
    await book.begin(state(again, started_at=again))
    (one,) = (await store.shipping.overview(again)).workers
    assert (one.connected, one.changed_at, one.lines) == (False, again, 3)


async def test_a_worker_that_was_never_heard_is_shown_too(store: Store, shipping_host: None) -> None:
    del shipping_host
    seen = await store.shipping.overview(NOW)
    assert (seen.listening, seen.listener) == (False, None)
    assert [(one.host, one.heard_at, one.streams) for one in seen.workers] == [("w1", None, ())]


async def test_a_silence_is_told_once_and_so_is_its_end(
    store: Store, url: str, book: DoorBook, shipping_host: None
) -> None:
    del shipping_host
    await book.report([worker()], [], state())
    at = NOW + AFTER
    await book.report([], [], state(at))
    assert await store.silences.settle(at - secs(1), AFTER) == Settled()
    others = [await Store.open(url) for _ in range(4)]
    try:
        told = await asyncio.gather(*(other.silences.settle(at, AFTER) for other in (*others, *others)))
        assert sum((settled.silent for settled in told), ()) == ("w1",)
        assert await store.silences.hosts() == ["w1"]
        (one,) = (await store.shipping.overview(at)).workers
        assert one.silent_since == NOW
        back = at + secs(60)
        await book.report([worker(back)], [], state(back))
        told = await asyncio.gather(*(other.silences.settle(back, AFTER) for other in (*others, *others)))
    finally:
        for other in others:
            await other.close()
    assert sum((settled.heard for settled in told), ()) == ("w1",)
    assert await store.silences.hosts() == []
    rows = await store.events.page()
    assert [(row["event_type"], row["worker"], row["fields"]["silent_secs"]) for row in rows] == [
        ("worker.silent", "w1", "300"),
        ("worker.heard", "w1", "360"),
    ]


async def test_a_second_silence_is_another_event(store: Store, book: DoorBook, shipping_host: None) -> None:
    del shipping_host
    at = NOW
    for _ in range(2):
        await book.report([worker(at)], [], state(at))
        await store.silences.settle(at, AFTER)
        at += AFTER
        await book.report([], [], state(at))
        assert (await store.silences.settle(at, AFTER)).silent == ("w1",)
        at += secs(1)
    rows = await store.events.page()
    assert [row["event_type"] for row in rows] == ["worker.silent", "worker.heard", "worker.silent"]
    assert len({row["id"] for row in rows}) == 3


async def test_nobody_is_silent_while_nobody_listens(store: Store, book: DoorBook, shipping_host: None) -> None:
    del shipping_host
    assert await store.silences.settle(NOW + AFTER, AFTER) == Settled()  # no listener ever
    await book.report([worker()], [], state())
    assert await store.silences.settle(NOW + 2 * AFTER, AFTER) == Settled()  # it is gone
    started = NOW + 2 * AFTER
    await book.begin(state(started, started_at=started))
    assert await store.silences.settle(started, AFTER) == Settled()  # it has only just come back
    await book.report([], [], state(started + AFTER, started_at=started))
    assert (await store.silences.settle(started + AFTER, AFTER)).silent == ("w1",)


async def test_who_need_not_ship_is_not_silent(store: Store, book: DoorBook) -> None:
    await enrol(store, "w1")
    await store.hosts.redeem("a" * 16, "hash", "digest", NOW, lambda _: redemption())
    await book.report([], [], state())
    await book.report([], [], state(NOW + AFTER))
    assert await store.silences.settle(NOW + AFTER, AFTER) == Settled()  # it has no deckies


async def test_a_silence_ends_quietly_with_the_worker(store: Store, book: DoorBook, shipping_host: None) -> None:
    del shipping_host
    await book.report([worker()], [], state())
    at = NOW + AFTER
    await book.report([], [], state(at))
    await store.silences.settle(at, AFTER)
    await store.hosts.decommission("w1", at)
    assert await store.silences.settle(at, AFTER) == Settled()
    assert await store.silences.hosts() == []
    assert len(await store.events.page()) == 1


def test_both_events_keep_to_the_catalogue() -> None:
    for event in (_silent_event("w1", NOW, NOW + AFTER), _heard_event("w1", NOW, NOW + AFTER)):
        check(event)


async def test_recent_dead_letters_are_counted_up_to_a_bound(store: Store) -> None:
    at = await store.ingest.position()
    letters = [DeadLetter("logship@w1", "s1", number, NOW + secs(number), "it is none", b"x") for number in range(10)]
    await store.ingest.append(Load(), letters, type(at)(1, 10), at)
    assert await store.shipping.recent_dead_letters(NOW + secs(6), 100) == 4
    assert await store.shipping.recent_dead_letters(NOW, 5) == 5
    assert await store.shipping.recent_dead_letters(NOW + secs(60), 5) == 0


async def test_events_are_counted_by_type_without_looking_at_them(store: Store, url: str) -> None:
    assert await store.shipping.counts_by_type() == {}
    rows = [new(1), new(2), new(3, event_type="login.failed"), new(4, event_type="of tomorrow"), new(5, event_type="x")]
    await store.ingest.append(Load.of(rows), [], Position(1, 1), START)
    database = Database(database_url(url), 1)
    async with database.write() as connection:
        await connection.execute(events.delete())
    await database.close()
    assert await store.shipping.counts_by_type() == {"guest.line": 2, "login.failed": 1, "other": 2}


@pytest.mark.parametrize(
    ("configured", "asked"),
    [
        ("u:p@h/db?ssl=require&host=/run/pg", "u:p@h/db?sslmode=require&host=/run/pg"),
        ("u@h/db?host=/x&ssl=verify-full", "u@h/db?host=/x&sslmode=verify-full"),
        ("u:ssl=x@h/db", "u:ssl=x@h/db"),
        ("u@h/db?sslmode=require", "u@h/db?sslmode=require"),
    ],
)
def test_an_url_of_sqlalchemy_is_understood_by_the_bare_driver(configured: str, asked: str) -> None:
    assert _in_libpq_words(configured) == asked


async def test_a_database_of_another_schema_is_refused(empty_url: str) -> None:
    if empty_url.startswith("postgres"):
        with pytest.raises(ConfigError, match="no DECNET schema"):
            await DoorBook.open(empty_url)
    with pytest.raises(ConfigError):
        await DoorBook.open("sqlite:////nowhere/decnet.sqlite3")
    with pytest.raises(ConfigError):
        await DoorBook.open("mysql://x/y")
