"""What a container said last is collected, also when the engine ends the stream too early or is away at that moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from decnet_agent.engine.labels import LABEL_DECKY
from decnet_agent.engine.watch import EngineWatch
from decnet_agent.evidence.appending import EventAppender
from decnet_agent.evidence.collector import Collector
from decnet_agent.evidence.event_log import EventLog

WAIT_SECS = 60
RECORD = b"2026-01-31T12:00:00.000000001Z first\r\n", b"2026-01-31T12:00:00.000000002Z last words\r\n"


class EndedContainer:
    """An engine's answers about one container that has ended; following it, the engine gives up after the first line.

    Args:
        deaf: how many questions for the container's state are answered by hanging up.
    """

    def __init__(self, deaf: int) -> None:
        self.deaf = deaf

    async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
        if target.startswith("/containers/json"):
            item = {"Id": "c1", "Names": ["/web"], "State": "exited", "Labels": {LABEL_DECKY: "web01"}, "Image": "i"}
            body = json.dumps([item]).encode()
        elif "follow=1" in target:
            body = RECORD[0]
        elif "follow=0" in target:
            body = b"".join(RECORD)
        elif self.deaf:
            self.deaf -= 1
            writer.close()
            return
        else:
            body = json.dumps({"State": {"Running": False}, "Config": {"Tty": True}}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def collecting(folder: Path, engine: EndedContainer) -> AsyncIterator[Collector]:
    log = EventLog.open(folder / "events.log", folder, host="w", max_bytes=1 << 30, now=lambda: datetime.now(UTC))
    appender = EventAppender(log)
    server = await asyncio.start_unix_server(engine.respond, folder / "engine.sock")
    collector = Collector(EngineWatch(f"unix://{folder}/engine.sock"), appender, folder / "deckies.json")
    tasks = [asyncio.create_task(appender.run()), asyncio.create_task(collector.run())]
    try:
        async with server:
            yield collector
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        log.close()


def told(folder: Path) -> list[bytes]:
    lines = (folder / "events.log").read_bytes().splitlines()
    return [word for line in lines for word in (b"first", b"last words") if line.endswith(word)]


async def test_the_lines_that_a_stream_ended_before_are_read_from_the_record(tmp_path: Path) -> None:
    async with collecting(tmp_path, EndedContainer(deaf=0)) as collector:
        assert await collector.drained("c1", WAIT_SECS)
        assert told(tmp_path) == [b"first", b"last words"]


async def test_an_engine_that_was_away_when_the_stream_ended_is_asked_again(tmp_path: Path) -> None:
    async with collecting(tmp_path, EndedContainer(deaf=2)) as collector:
        assert await collector.drained("c1", WAIT_SECS)
        assert told(tmp_path) == [b"first", b"last words"]
