"""What a tap could not deliver reaches the collector through the next one: everything, once, under its own cursors."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from datetime import UTC, datetime

from decnet_agent.evidence.sender import EvidenceSender
from decnet_agent.evidence.sensors import serve_evidence
from decnet_agent.tap.leftovers import Leftovers
from decnet_core.events import Event, EventType, Trust

NOW = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


def _event(number: int) -> Event:
    return Event(
        at=NOW,
        decky="web-1",
        service="ssh",
        event_type=EventType.COMMAND_RUN,
        trust=Trust.SENSOR,
        source="",
        cursor="0",
        fields={"command": f"echo {number}\nx"},
    )


class _Collector:
    """A collector's memory: what arrived, in order, and the last cursor of each source."""

    def __init__(self):
        self.events: list[Event] = []

    def last_cursor(self, source: str) -> str | None:
        return next((event.cursor for event in reversed(self.events) if event.source == source), None)

    async def append(self, events: list[Event]) -> None:
        self.events += events


@contextlib.asynccontextmanager
async def _listening(path, collector):
    ready = asyncio.Event()
    serving = asyncio.create_task(serve_evidence(path, collector.last_cursor, collector.append, ready=ready.set))
    await asyncio.wait_for(ready.wait(), 10)
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _until_empty(folder):
    async with asyncio.timeout(20):
        while list(folder.iterdir()):
            await asyncio.sleep(0.01)


async def test_the_next_tap_delivers_what_the_last_one_kept(tmp_path):
    socket, folder = tmp_path / "events.sock", tmp_path / "tap"
    ended = EvidenceSender(socket, "tap.one")
    for number in range(50):
        ended.offer(_event(number))
    Leftovers(folder, socket).keep(ended)
    (kept,) = folder.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    collector = _Collector()
    async with _listening(socket, collector):
        delivering = asyncio.create_task(Leftovers(folder, socket).deliver())
        await _until_empty(folder)
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
    assert [(event.source, event.cursor) for event in collector.events] == [
        ("tap.one", str(number)) for number in range(1, 51)
    ]
    assert [event.fields["command"] for event in collector.events] == [f"echo {number}\nx" for number in range(50)]


async def test_what_the_collector_has_already_is_not_delivered_again(tmp_path):
    """The tap was ended after the collector's fsync and before its acknowledgement arrived."""
    socket, folder = tmp_path / "events.sock", tmp_path / "tap"
    ended = EvidenceSender(socket, "tap.one")
    for number in range(10):
        ended.offer(_event(number))
    collector = _Collector()
    async with _listening(socket, collector):
        sending = asyncio.create_task(ended.run())
        await asyncio.wait_for(ended.drained(), 10)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    again = EvidenceSender(socket, "tap.one")
    for number in range(12):
        again.offer(_event(number))
    Leftovers(folder, socket).keep(again)
    async with _listening(socket, collector):
        delivering = asyncio.create_task(Leftovers(folder, socket).deliver())
        await _until_empty(folder)
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
    assert [event.cursor for event in collector.events] == [str(number) for number in range(1, 13)]


async def test_a_damaged_leftover_is_put_aside(tmp_path):
    folder = tmp_path / "tap"
    folder.mkdir()
    (folder / "tap.bad.jsonl").write_bytes(b'{"event": {"cursor": "1"}}\n')
    delivering = asyncio.create_task(Leftovers(folder, tmp_path / "events.sock").deliver())
    async with asyncio.timeout(20):
        while not (folder / "tap.bad.unreadable").exists():
            await asyncio.sleep(0.01)
    delivering.cancel()
    await asyncio.gather(delivering, return_exceptions=True)


def test_nothing_undelivered_leaves_no_file(tmp_path):
    folder = tmp_path / "tap"
    Leftovers(folder, tmp_path / "events.sock").keep(EvidenceSender(tmp_path / "events.sock", "tap.one"))
    assert not folder.exists()
