"""What the API says of the evidence's way: shipping, health, metrics, and the alarm of a silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from decnet_core.fleet import Account, DeckySpec
from decnet_master.api import app as api
from decnet_master.api import silence
from decnet_master.api.metrics import CONTENT_TYPE, Page
from decnet_master.settings import MasterSettings
from decnet_master.store import Store
from decnet_master.store.doorbook import DoorBook, ListenerState
from decnet_master.store.ingest import DeadLetter
from decnet_master.store.records import Load
from tests.store.samples import NOW, enrol, redemption
from tests.store.test_shipping import state, stream, worker
from tests.swarm.master import port_of, running

LETTERS = 5


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def settings(settings: MasterSettings) -> MasterSettings:
    return settings.model_copy(
        update={"metrics_token": "let-me-read", "dead_letter_alarm": LETTERS, "silence_secs": 60}
    )


@pytest.fixture
async def book(settings: MasterSettings) -> AsyncIterator[DoorBook]:
    async with await DoorBook.open(settings.database) as book:
        yield book


@pytest.fixture
async def host(store: Store) -> None:
    """The worker w1, active, with a decky."""
    await enrol(store, "w1")
    await store.hosts.redeem("a" * 16, "hash", "digest", NOW, lambda _: redemption())
    spec = DeckySpec(name="d1", services=("ssh",), accounts=(Account(user="root", password="x"),))
    await store.fleet.place(await store.fleet.next_generation(now()), [("w1", spec)])


def listening(**changes: object) -> ListenerState:
    return state(now(), started_at=now() - timedelta(hours=1), quota_bytes=1000, **changes)


async def problems(client: httpx.AsyncClient) -> tuple[int, str, list[str]]:
    answer = await client.get("/api/v1/health")
    document = answer.json()
    return answer.status_code, document["status"], [problem["part"] for problem in document["problems"]]


@pytest.mark.usefixtures("host")
async def test_shipping_tells_each_worker_and_stream(admin: httpx.AsyncClient, book: DoorBook) -> None:
    before = (await admin.get("/api/v1/shipping")).json()
    assert (before["listener"], before["backlog"]) == (None, None)
    assert [(one["worker"], one["should_ship"], one["heard_at"]) for one in before["workers"]] == [("w1", True, None)]
    at = now()
    report = replace(worker(at), connections=3, refusals=1)
    await book.report([report], [stream(at=at)], listening(backlog_lines=7, backlog_bytes=70, connections=1))
    after = (await admin.get("/api/v1/shipping")).json()
    assert after["listener"]["listening"] is True
    assert after["backlog"] == {"lines": 7, "bytes": 70, "waits_since": None}
    (one,) = after["workers"]
    assert (one["connected"], one["reconnects"], one["refusals"], one["lines"]) == (True, 2, 1, 3)
    assert (one["address"], one["stream"]) == ("192.0.2.1", "s1")
    assert datetime.fromisoformat(one["heard_at"]) == at
    assert [(file["stream"], file["durable_offset"], file["lines"]) for file in one["streams"]] == [("s1", 300, 3)]


@pytest.mark.usefixtures("host")
async def test_health_follows_the_listener_and_its_journal(admin: httpx.AsyncClient, book: DoorBook) -> None:
    # The decky was never reported to run, so the best that health can be is degraded.
    await book.report([], [], listening())
    assert await problems(admin) == (200, "degraded", [])
    await book.report([], [], listening(journal_bytes=800))
    assert await problems(admin) == (200, "degraded", ["journal"])
    await book.report([], [], listening(stalled="It is full. Do something."))
    assert await problems(admin) == (503, "failed", ["journal"])
    await book.report([], [], listening(backlog_lines=9, waits_since=now() - timedelta(minutes=1)))
    assert await problems(admin) == (503, "failed", ["ingester"])
    await book.report([], [], listening(backlog_lines=9, waits_since=now()))
    assert await problems(admin) == (200, "degraded", [])
    await book.report([], [], replace(listening(), reported_at=now() - timedelta(minutes=1)))
    assert await problems(admin) == (503, "failed", ["listener"])


@pytest.mark.usefixtures("host")
async def test_a_listener_that_never_came_is_grave_once_a_worker_should_ship(
    admin: httpx.AsyncClient, book: DoorBook
) -> None:
    assert await problems(admin) == (503, "failed", ["listener"])
    (problem,) = (await admin.get("/api/v1/health")).json()["problems"]
    assert problem["grave"] is True
    assert "w1" in problem["message"]
    await book.report([], [], listening())
    assert await problems(admin) == (200, "degraded", [])


async def test_without_a_worker_that_should_ship_nobody_has_to_listen(admin: httpx.AsyncClient, store: Store) -> None:
    assert await problems(admin) == (200, "ok", [])
    await enrol(store, "w1")
    await store.hosts.redeem("a" * 16, "hash", "digest", NOW, lambda _: redemption())  # active, without deckies
    assert await problems(admin) == (200, "ok", [])


async def test_dead_letters_that_pile_up_turn_health_red(admin: httpx.AsyncClient, store: Store) -> None:
    async def send(count: int, received_at: datetime) -> None:
        at = await store.ingest.position()
        letters = [DeadLetter("logship@w1", "s1", one, received_at, "it is none", b"x") for one in range(count)]
        await store.ingest.append(Load(), letters, type(at)(at.segment, at.offset + 1), at)

    await send(LETTERS, now() - timedelta(hours=1))
    await send(LETTERS - 1, now())
    assert await problems(admin) == (200, "ok", [])
    await send(1, now())
    assert await problems(admin) == (503, "failed", ["dead-letters"])


@pytest.mark.usefixtures("host")
async def test_metrics_are_for_the_token_and_for_logins(
    anyone: httpx.AsyncClient, book: DoorBook, settings: MasterSettings
) -> None:
    await book.report([worker(now())], [], listening(backlog_lines=7))
    for bad in ("", "Bearer", "Bearer let-me-rea", "Bearer let-me-readx", "Basic let-me-read", "Bearer \xff"):
        answer = await anyone.get("/metrics", headers={"authorization": bad.encode("latin-1")})
        assert answer.status_code == 401, bad
    answer = await anyone.get("/metrics", headers={"authorization": f"Bearer {settings.metrics_token}"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPE)
    samples = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert samples['decnet_worker_lines_total{worker="w1"}'] == "3"
    assert samples['decnet_worker_connected{worker="w1"}'] == "1"
    assert samples["decnet_backlog_lines"] == "7"
    assert samples["decnet_listener_up"] == "1"
    assert samples['decnet_events_total{type="login.failed"}'] == "0"
    assert samples["decnet_stream_clients"] == "0"
    assert 'decnet_findings{grave="true"}' in samples
    described = [line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")]
    assert len(described) == len(set(described))


async def test_without_a_token_only_a_login_reads_the_metrics(settings: MasterSettings) -> None:
    app = api.build(settings.model_copy(update={"metrics_token": None}))
    async with (
        running(app),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_of(app.socket)}", trust_env=False) as client,
    ):
        for shown in ("Bearer None", "Bearer", "Bearer x"):
            assert (await client.get("/metrics", headers={"authorization": shown})).status_code == 401


async def test_events_are_counted_once_also_those_of_a_newer_worker(admin: httpx.AsyncClient, feed) -> None:
    async def counted() -> dict[str, str]:
        text = (await admin.get("/metrics")).text
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("decnet_events_total"))

    await feed.add(1, 2)
    assert (await counted())['decnet_events_total{type="guest.line"}'] == "2"
    await feed.add(3, event_type='a"type\nof tomorrow')
    after = await counted()
    assert after['decnet_events_total{type="guest.line"}'] == "2"
    assert after['decnet_events_total{type="other"}'] == "1"


def test_a_page_of_metrics_is_what_prometheus_reads() -> None:
    page = Page()
    page.add("lines_total", "Lines", 1 << 53, {"worker": 'a"b\\c\nd'})
    page.add("seen", "Seen", None)
    page.add("at", "At", datetime(2026, 11, 23, tzinfo=UTC))
    page.add("lines_total", "Lines", 2, {"worker": "w2"})
    assert page.text() == (
        "# HELP decnet_lines_total Lines\n# TYPE decnet_lines_total counter\n"
        'decnet_lines_total{worker="a\\"b\\\\c\\nd"} 9007199254740992\n'
        'decnet_lines_total{worker="w2"} 2\n'
        "# HELP decnet_at At\n# TYPE decnet_at gauge\ndecnet_at 1795392000\n"
    )


@pytest.mark.usefixtures("host")
async def test_a_silence_is_an_event_and_stands_in_health(
    admin: httpx.AsyncClient, store: Store, book: DoorBook
) -> None:
    long_ago = now() - timedelta(minutes=10)
    await book.report([worker(long_ago)], [], listening())
    watching = [asyncio.create_task(silence.watch(store, timedelta(0), 0.01)) for _ in range(3)]
    try:
        await until(admin, ["worker.silent"])
        status, _, parts = await problems(admin)
        assert (status, parts) == (200, ["workers"])
        assert (await admin.get("/api/v1/health")).json()["silent_workers"] == ["w1"]
        assert (await admin.get("/api/v1/shipping")).json()["workers"][0]["silent_since"] is not None
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        watching = [asyncio.create_task(silence.watch(store, timedelta(hours=1), 0.01)) for _ in range(3)]
        await book.report([worker(now())], [], listening())
        await until(admin, ["worker.heard", "worker.silent"])
        assert (await admin.get("/api/v1/health")).json()["silent_workers"] == []
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


async def until(client: httpx.AsyncClient, wanted: list[str]) -> None:
    async with asyncio.timeout(20):
        while [row["event_type"] for row in (await client.get("/api/v1/events")).json()["events"]] != wanted:
            await asyncio.sleep(0.02)
