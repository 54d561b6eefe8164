"""The evidence channel, both real ends over a real socket: in order, once, bounded, and rude peers are hung up on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.evidence import channel, sensors
from decnet_agent.evidence.sender import EvidenceSender
from decnet_agent.evidence.sensors import serve_evidence
from decnet_core.errors import RemoteProtocolError, Unavailable
from decnet_core.events import Event, EventType, Trust

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def _event(command: str = "id") -> Event:
    return Event(
        AT,
        "web-01",
        "ssh",
        EventType.COMMAND_RUN,
        Trust.SENSOR,
        "",
        "0",
        src_ip="10.0.0.9",
        fields={"command": command},
    )


class Collector:
    """What a collector does, in memory: durable means in the list."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        self.sensors = 0
        self.arrived = asyncio.Condition()
        self.fail: Exception | None = None

    def last_cursor(self, source: str) -> str | None:
        return next((event.cursor for event in reversed(self.events) if event.source == source), None)

    async def append(self, events: list[Event]) -> None:
        if self.fail is not None:
            raise self.fail
        async with self.arrived:
            self.events += events
            self.arrived.notify_all()

    def connected(self, count: int) -> None:
        self.sensors = count

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        ready = asyncio.Event()
        task = asyncio.create_task(
            serve_evidence(self.path, self.last_cursor, self.append, ready=ready.set, connected=self.connected)
        )
        await asyncio.wait_for(ready.wait(), 5)
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def has(self, count: int) -> None:
        async with self.arrived:
            await asyncio.wait_for(self.arrived.wait_for(lambda: len(self.events) >= count), 10)


@asynccontextmanager
async def _running(sender: EvidenceSender) -> AsyncIterator[None]:
    task = asyncio.create_task(sender.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_events_arrive_in_order_with_source_and_cursor(tmp_path: Path) -> None:
    collector, sender = Collector(tmp_path / "s"), EvidenceSender(tmp_path / "s", "tap.1")
    async with collector.serving(), _running(sender):
        for number in range(1500):
            sender.offer(_event(f"echo {number}\n]"))
        await collector.has(1500)
        await asyncio.wait_for(sender.drained(), 10)
        assert collector.sensors == 1
    assert [event.fields["command"] for event in collector.events] == [f"echo {n}\n]" for n in range(1500)]
    assert [event.cursor for event in collector.events] == [str(n) for n in range(1, 1501)]
    assert {(event.source, event.at, event.trust) for event in collector.events} == {("tap.1", AT, Trust.SENSOR)}


@pytest.mark.slow
async def test_nothing_is_lost_or_doubled_when_the_collector_comes_and_goes(tmp_path: Path) -> None:
    collector, sender = Collector(tmp_path / "s"), EvidenceSender(tmp_path / "s", "tap.1")
    async with _running(sender):
        for round_ in range(4):
            for number in range(300):
                sender.offer(_event(f"{round_}.{number}"))
            async with collector.serving():
                # hang up in the middle of a round, but for the last
                await collector.has((round_ + 1) * 300 if round_ == 3 else round_ * 300 + 1)
                if round_ == 3:
                    await asyncio.wait_for(sender.drained(), 10)
    assert [int(event.cursor) for event in collector.events] == list(range(1, 1201))


async def test_what_was_made_durable_but_not_acknowledged_is_not_sent_again(tmp_path: Path) -> None:
    collector, sender = Collector(tmp_path / "s"), EvidenceSender(tmp_path / "s", "tap.1")
    for number in range(3):
        sender.offer(_event(str(number)))
    collector.events = [channel.event_from_json("tap.1", {**channel.event_to_json(_event()), "cursor": "2"})]
    async with collector.serving(), _running(sender):
        await collector.has(2)
    assert [event.cursor for event in collector.events] == ["2", "3"]


async def test_a_full_buffer_counts_what_it_drops_and_tells_it(tmp_path: Path) -> None:
    collector, sender = Collector(tmp_path / "s"), EvidenceSender(tmp_path / "s", "tap.1", max_events=10)
    for number in range(50):
        sender.offer(_event(str(number)))
    async with collector.serving(), _running(sender):
        await collector.has(9)
        await asyncio.wait_for(sender.drained(), 10)
        sender.offer(_event("after"))
        await collector.has(11)
    dropped = collector.events[9]
    assert dropped.event_type == EventType.EVIDENCE_DROPPED
    assert dropped.fields == {"count": "41", "reason": "buffer-full"}
    assert collector.events[10].fields["command"] == "after"


async def test_bytes_bound_the_buffer_too(tmp_path: Path) -> None:
    sender = EvidenceSender(tmp_path / "s", "tap.1", max_bytes=10_000)
    for _ in range(100):
        sender.offer(_event("x" * 1000))
    assert sender._waiting_bytes < 12_000


async def test_a_broken_collector_ends_the_server_with_its_error(tmp_path: Path) -> None:
    collector, sender = Collector(tmp_path / "s"), EvidenceSender(tmp_path / "s", "tap.1")
    collector.fail = Unavailable("The disk is full")
    sender.offer(_event())
    async with _running(sender):
        with pytest.raises(Unavailable, match="disk"):
            await asyncio.wait_for(serve_evidence(collector.path, collector.last_cursor, collector.append), 10)


LINE = json.dumps({"event": {**channel.event_to_json(_event()), "cursor": "1"}}).encode() + b"\n"
HELLO = b'{"source": "tap.x"}\n'


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\n",
        b'{"source": ""}\n',
        b'{"source": "a", "more": 1}\n',
        HELLO + b"nonsense\n",
        HELLO + b'{"event": {}}\n',
        HELLO + LINE + LINE,
        HELLO + b'{"event": "' + b"x" * channel.MAX_LINE_BYTES + b'"}\n',
    ],
)
async def test_a_rude_peer_is_hung_up_on_and_the_next_is_served(tmp_path: Path, sent: bytes) -> None:
    collector = Collector(tmp_path / "s")
    async with collector.serving():
        reader, writer = await asyncio.open_unix_connection(str(collector.path))
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 10)  # to its end: it hung up
        writer.close()
        sender = EvidenceSender(collector.path, "tap.good")
        sender.offer(_event("fine"))
        async with _running(sender):
            await asyncio.wait_for(sender.drained(), 10)
    assert collector.events[-1].source == "tap.good"


async def test_the_socket_is_for_its_owner_alone_and_replaces_a_dead_one(tmp_path: Path) -> None:
    collector = Collector(tmp_path / "s")
    collector.path.touch()
    async with collector.serving():
        assert collector.path.stat().st_mode & 0o777 == 0o600


def test_the_peers_user_is_read_from_the_kernel() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert sensors.peer_uid(left) == os.getuid()


TEXT = st.text(max_size=30)
PORT = st.none() | st.integers(0, 65535)
EVENTS = st.builds(
    Event,
    at=st.datetimes(timezones=st.just(UTC)),
    decky=TEXT,
    service=TEXT,
    event_type=TEXT,
    trust=st.sampled_from(Trust),
    source=st.just("tap.1"),
    cursor=st.integers(0, 10**19).map(str),
    src_ip=st.none() | TEXT,
    src_port=PORT,
    dst_ip=st.none() | TEXT,
    dst_port=PORT,
    session=st.none() | TEXT,
    pid=PORT,
    fields=st.dictionaries(TEXT, TEXT, max_size=4),
    text=TEXT,
)


@given(EVENTS)
def test_an_event_comes_back_equal(event: Event) -> None:
    line = channel.encode({"event": channel.event_to_json(event)})
    assert line.count(b"\n") == 1
    assert channel.event_from_json("tap.1", channel.decode(line)["event"]) == event


@given(st.binary(max_size=200).map(lambda data: data + b"\n"))
def test_any_line_is_an_object_or_a_named_error(line: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        channel.decode(line)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT, lambda inner: st.lists(inner, max_size=2)
)


@given(st.none() | JSON | st.fixed_dictionaries(dict.fromkeys(channel._EVENT_KEYS, JSON)))
def test_any_json_is_an_event_or_a_named_error(data: object) -> None:
    with contextlib.suppress(RemoteProtocolError):
        channel.event_from_json("tap.1", data)


@given(EVENTS, st.sampled_from(sorted(channel._EVENT_KEYS)), JSON)
def test_one_odd_member_is_an_event_or_a_named_error(event: Event, key: str, value: object) -> None:
    with contextlib.suppress(RemoteProtocolError):
        channel.event_from_json("tap.1", {**channel.event_to_json(event), key: value})
