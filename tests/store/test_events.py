from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from decnet_core.errors import Conflict
from decnet_master.journal.reader import START, Position
from decnet_master.store import DeadLetter, Load, NewEvent, Store
from tests.store.samples import HOSTILE_TEXTS, NOW, an_event, new

P1, P2 = Position(1, 100), Position(1, 200)


async def test_an_event_comes_back_as_it_was_made(store: Store) -> None:
    event = an_event(
        7,
        src_ip="2001:db8::1",
        src_port=65535,
        dst_ip="192.0.2.7",
        dst_port=22,
        session="s",
        pid=(1 << 63) - 1,
        fields={"user": "root", "password": "pa ss"},
    )
    await store.ingest.append(Load.of([NewEvent(event, "worker-1", NOW, {"nested": {"a": [1, None]}})]), [], P1, START)
    (row,) = await store.events.page()
    assert row == {
        "seq": 1,
        "id": event.id,
        "at": "2026-11-23T12:30:22.123456Z",
        "received_at": "2026-11-23T12:30:15.123456Z",
        "worker": "worker-1",
        "decky": "web-1",
        "service": "ssh",
        "event_type": "guest.line",
        "trust": "guest",
        "src_ip": "2001:db8::1",
        "src_port": 65535,
        "dst_ip": "192.0.2.7",
        "dst_port": 22,
        "session": "s",
        "pid": (1 << 63) - 1,
        "fields": {"user": "root", "password": "pa ss", "nested": {"a": [1, None]}},
        "text": "line 7",
        "source": "container",
        "cursor": "7",
    }


@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=lambda text: repr(text[:12]))
async def test_hostile_text_comes_back_exactly(store: Store, text: str) -> None:
    event = an_event(fields={"command": text, "key": text}, text=text, session=text, source=text or "s", service=text)
    letter = DeadLetter("logship@w1", "s", 5, NOW, text, text.encode("utf-8", "surrogatepass"))
    if "\ud83d" in text:
        event = an_event(fields={"command": text}, text=text, session=text, service=text)
    await store.ingest.append(Load.of([NewEvent(event, "w1", NOW)]), [letter], P1, START)
    (row,) = await store.events.page()
    assert (row["text"], row["session"], row["source"], row["service"]) == (text, text, event.source, text)
    assert row["fields"] == event.fields
    assert [kept for _, kept in await store.ingest.dead_letters()] == [letter]
    assert json.dumps(row).isascii()


async def test_the_ends_of_time_are_stored(store: Store) -> None:
    ends = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)]
    await store.ingest.append(Load.of(new(at=at) for at in ends), [], P1, START)
    assert [row["at"] for row in await store.events.page()] == [
        "0001-01-01T00:00:00.000000Z",
        "9999-12-31T23:59:59.999999Z",
    ]


async def test_pages_go_both_ways_and_filter(store: Store) -> None:
    assert await store.events.latest_seq() == 0
    rows = [
        new(n, decky=f"d{n % 2}", src_ip=f"192.0.2.{n % 3}", event_type="command.run" if n % 5 == 0 else "guest.line")
        for n in range(1, 31)
    ]
    await store.ingest.append(Load.of(rows), [], P1, START)
    last = await store.events.latest_seq()
    assert last == 30

    async def cursors(**wanted) -> list[int]:
        return [int(row["cursor"]) for row in await store.events.page(**wanted)]

    assert await cursors(limit=3) == [1, 2, 3]
    assert await cursors(after_seq=28) == [29, 30]
    assert await cursors(after_seq=last) == []
    assert await cursors(before_seq=last + 1, limit=2) == [30, 29]
    assert await cursors(before_seq=3) == [2, 1]
    assert await cursors(after_seq=5, before_seq=8) == [7, 6]
    assert await cursors(event_type="command.run", limit=2) == [5, 10]
    assert await cursors(decky="d1", src_ip="192.0.2.0") == [3, 9, 15, 21, 27]
    assert await cursors(decky="d\0") == []
    assert await cursors(src_ip="\udc80'") == []
    assert len(await cursors(limit=0)) == 1


async def test_a_page_is_bounded(store: Store) -> None:
    await store.ingest.append(Load.of(new(n) for n in range(1005)), [], P1, START)
    assert len(await store.events.page(limit=10**9)) == 1000


async def test_rows_and_position_move_together_or_not_at_all(store: Store) -> None:
    assert await store.ingest.position() == START
    await store.ingest.append(Load.of([new(1)]), [], P1, START)
    assert await store.ingest.position() == P1
    with pytest.raises(Conflict):
        await store.ingest.append(Load.of([new(2)]), [], P2, START)
    assert await store.ingest.position() == P1
    assert await store.events.latest_seq() == 1
    await store.ingest.append(Load(), [], P2, P1)
    assert await store.ingest.position() == P2


async def test_of_many_ingesters_one_gets_on(store: Store, url: str) -> None:
    async with await Store.open(url) as other:
        tries = [room.ingest.append(Load.of([new(n)]), [], P1, START) for n, room in enumerate([store, other] * 5)]
        results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 9
    assert len(await store.events.page()) == 1


async def test_a_cancelled_append_stores_all_or_nothing(store: Store) -> None:
    rows = [new(n) for n in range(2000)]
    position = START
    for turn in range(12):
        after = Position(1, turn + 1)
        task = asyncio.create_task(store.ingest.append(Load.of(rows), [], after, position))
        for _ in range(turn * 3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        stored = await store.ingest.position()
        assert stored in {position, after}
        position = stored
    count = len({row["seq"] for row in await store.events.page(limit=1)})
    done = [turn for turn in range(12) if Position(1, turn + 1) <= position]
    assert (count == 0) == (not done)
    await store.ingest.append(Load.of(rows), [], Position(2, 0), position)  # no lock was left behind


async def test_a_row_that_the_database_refuses_is_named_and_not_kept(store: Store) -> None:
    good, bad = new(1), new(2, pid=1 << 64)
    assert await store.ingest.refusal(Load.of([good])) is None
    assert await store.ingest.refusal(Load.of([bad]))
    assert await store.events.latest_seq() == 0
    await store.ingest.append(Load.of([good]), [], P1, START)
