"""Events over HTTP: pages, and the live stream that loses nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

import httpx
import pytest

from decnet_master.api import stream
from decnet_master.api.fanout import QUEUED_PAGES, Fanout
from decnet_master.api.stream import follow
from decnet_master.store import Store
from tests.api.conftest import Feed
from tests.store.samples import HOSTILE_TEXTS

WAIT_SECS = 10


@pytest.fixture
async def fanout(store: Store) -> AsyncIterator[Fanout]:
    fanout = Fanout(store)
    reader = asyncio.create_task(fanout.run())
    yield fanout
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)


class Stream:
    """Reads server-sent events as a browser does."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[int, dict]:
        event: dict[str, str] = {}
        async with asyncio.timeout(WAIT_SECS):
            async for line in self._lines:
                if not line and "data" in event:
                    return int(event["id"]), json.loads(event["data"])
                name, _, value = line.partition(": ")
                event[name] = value
        raise AssertionError("the stream ended")

    async def take(self, count: int) -> list[int]:
        return [(await self.next())[0] for _ in range(count)]


@asynccontextmanager
async def streaming(client: httpx.AsyncClient, after: int | None = None) -> AsyncIterator[Stream]:
    headers = {} if after is None else {"last-event-id": str(after)}
    async with client.stream("GET", "/api/v1/stream", headers=headers) as response:
        yield Stream(response)


async def test_pages_go_both_ways_and_end(admin: httpx.AsyncClient, feed: Feed) -> None:
    await feed.add(*range(1, 8))
    seen, after = [], 0
    while after is not None:
        page = (await admin.get("/api/v1/events", params={"after": after, "limit": 3})).json()
        seen += [event["seq"] for event in page["events"]]
        after = page["next"]
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    newest = (await admin.get("/api/v1/events", params={"limit": 2})).json()
    assert [event["seq"] for event in newest["events"]] == [7, 6]
    older = (await admin.get("/api/v1/events", params={"before": newest["next"], "limit": 2})).json()
    assert [event["seq"] for event in older["events"]] == [5, 4]


async def test_filters(admin: httpx.AsyncClient, feed: Feed) -> None:
    await feed.add(1, 2)
    await feed.add(3, decky="files-02", src_ip="192.0.2.9", event_type="login.failed", fields={"user": "root"})
    for params in ({"decky": "files-02"}, {"src_ip": "192.0.2.9"}, {"event_type": "login.failed"}):
        page = (await admin.get("/api/v1/events", params=params)).json()
        assert [event["seq"] for event in page["events"]] == [3], params


async def test_hostile_text_arrives_as_it_was(admin: httpx.AsyncClient, feed: Feed) -> None:
    # JSON cannot tell two lone surrogates from the pair that they look like.
    texts = [text for text in HOSTILE_TEXTS if text != "\ud83d\ude00"]
    for number, text in enumerate(texts, start=1):
        await feed.add(number, text=text)
    answer = await admin.get("/api/v1/events", params={"after": 0})
    assert answer.content.isascii()
    assert [event["text"] for event in answer.json()["events"]] == texts


@pytest.mark.parametrize(
    "params",
    [{"after": -1}, {"after": "x"}, {"limit": 0}, {"limit": 100000}, {"after": 1, "before": 2}, {"after": 2**70}],
)
async def test_a_page_that_makes_no_sense(admin: httpx.AsyncClient, params: dict) -> None:
    assert (await admin.get("/api/v1/events", params=params)).status_code in (400, 422)


async def test_the_stream_begins_now_and_goes_on(admin: httpx.AsyncClient, feed: Feed) -> None:
    await feed.add(1, 2)
    async with streaming(admin) as live:
        await feed.add(3)
        seq, event = await live.next()
        assert (seq, event["text"]) == (3, "line 3")
        await feed.add(4, 5)
        assert await live.take(2) == [4, 5]


async def test_a_stream_resumes_without_a_gap_or_a_repeat(admin: httpx.AsyncClient, feed: Feed) -> None:
    await feed.add(1, 2, 3)
    async with streaming(admin, after=1) as live:
        assert await live.take(2) == [2, 3]
        await feed.add(4)
        assert await live.take(1) == [4]
    await feed.add(5, 6)
    async with streaming(admin, after=4) as live:
        await feed.add(7)
        assert await live.take(3) == [5, 6, 7]


async def test_streams_opened_under_load_miss_nothing(admin: httpx.AsyncClient, feed: Feed) -> None:
    last = 120

    async def write() -> None:
        for number in range(1, last + 1):
            await feed.add(number)

    async def read() -> list[int]:
        async with streaming(admin, after=0) as live:
            return await live.take(last)

    _, *seen = await asyncio.gather(write(), *(read() for _ in range(4)))
    assert all(numbers == list(range(1, last + 1)) for numbers in seen)


async def test_a_bad_last_event_id(admin: httpx.AsyncClient) -> None:
    for wrong in ("x", "-1", "1" * 30, "1.5"):
        async with admin.stream("GET", "/api/v1/stream", headers={"last-event-id": wrong}) as response:
            assert response.status_code in (400, 422), wrong


async def test_an_id_that_no_event_has_yet_leaves_nobody_waiting_for_it(admin: httpx.AsyncClient, feed: Feed) -> None:
    """A client may know ids of a database that was made anew."""
    await feed.add(1)
    async with streaming(admin, after=2**62) as live:
        await feed.add(2)
        assert await live.take(1) == [2]


async def test_a_slow_client_is_cut_and_resumes(store: Store, feed: Feed, fanout: Fanout) -> None:
    with fanout.subscribe() as subscription:
        await fanout.live()
        number = 0
        async with asyncio.timeout(60):
            while not subscription.cut:
                number += 1
                await feed.add(number)
        pages = [subscription.queue.get_nowait() for _ in range(subscription.queue.qsize())]
    assert pages.pop() is None, "the end is told"
    assert len(pages) == QUEUED_PAGES
    taken = pages[-1][-1]["seq"]
    assert taken < number
    async with aclosing(follow(store, fanout, taken, _allowed)) as rest:
        await anext(rest)
        assert (await anext(rest)).startswith(f"id: {taken + 1}\n".encode())


async def test_the_reader_rests_while_nobody_listens(store: Store, feed: Feed, fanout: Fanout) -> None:
    async with aclosing(follow(store, fanout, 0, _allowed)) as pages:
        await anext(pages)
        assert fanout.clients == 1
    assert fanout.clients == 0
    await feed.add(1)
    async with aclosing(follow(store, fanout, 0, _allowed)) as pages:
        await anext(pages)
        assert b"id: 1\n" in await anext(pages)


async def test_a_stream_ends_with_its_session(
    admin: httpx.AsyncClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "RECHECK_SECS", 0.05)
    async with asyncio.timeout(WAIT_SECS), admin.stream("GET", "/api/v1/stream") as response:
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith("retry:")
        await store.users.set_password("admin", "no hash", must_change=False, now=datetime.now(UTC))
        assert [line async for line in lines if line not in ("", ":")] == []
        assert response.is_stream_consumed


async def _allowed() -> None:
    """Let everybody read."""


async def test_hosts_deckies_and_health(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/api/v1/hosts")).json() == {"hosts": []}
    assert (await admin.get("/api/v1/deckies")).json() == {"deckies": []}
    health = await admin.get("/api/v1/health")
    assert health.status_code == 200
    assert health.json()["status"] == "ok"
    assert health.json()["database"] == "ok"
