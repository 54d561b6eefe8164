"""Journals that the ingester's tests fill, with the real writer, and the ingester run beside a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from decnet_core.events import Event, Trust, to_syslog
from decnet_core.syslog.framing import encode_frames
from decnet_core.syslog.rfc5424 import encode
from decnet_master.ingester.ingest import Ingester
from decnet_master.journal.reader import JournalReader
from decnet_master.journal.record import Block, Kind
from decnet_master.journal.writer import JournalWriter
from decnet_master.store import Store

NOW = datetime(2026, 11, 23, 12, 30, 15, 123456, tzinfo=UTC)
IDENTITY = "logship@worker-1"
STREAM = "0123456789abcdef0123456789abcdef"
WAIT_SECS = 60.0


def a_line(number: int, **changes: Any) -> bytes:
    """Make one line as a worker's collector writes it."""
    values: dict[str, Any] = {
        "at": NOW,
        "decky": "web-1",
        "service": "ssh",
        "event_type": "guest.line",
        "trust": Trust.GUEST,
        "source": "container",
        "cursor": str(number),
        "text": f"line {number}",
    }
    return encode(to_syslog(Event(**{**values, **changes})))


def append(writer: JournalWriter, lines: Sequence[bytes], *, identity: str = IDENTITY, stream: str = STREAM) -> None:
    """Append lines as one batch, behind what the stream has already."""
    data = b"".join(line + b"\n" for line in lines)
    start = writer.durable_offset(identity, stream)
    writer.append([Block(identity, stream, start, start + len(data), NOW, data)])


def append_frames(writer: JournalWriter, messages: Sequence[bytes], *, identity: str = IDENTITY) -> None:
    """Append messages of a plain sender."""
    data = encode_frames(messages)
    start = writer.durable_offset(identity, "plain")
    writer.append([Block(identity, "plain", start, start + len(data), NOW, data, Kind.FRAMES)])


@asynccontextmanager
async def ingesting(folder: Path, store: Store, *, batch_rows: int = 500, max_wait_ms: int = 20) -> AsyncIterator[None]:
    """Run the ingester while the block runs; what it raises comes out."""
    ingester = Ingester(JournalReader(folder), store, batch_rows=batch_rows, max_wait_secs=max_wait_ms / 1000)
    task = asyncio.create_task(ingester.run())
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a level, with a bound."""
    async with asyncio.timeout(WAIT_SECS):
        while not await reached():
            await asyncio.sleep(0.01)


async def until_read(store: Store, writer: JournalWriter) -> None:
    """Wait until everything that the journal holds is stored."""

    async def reached() -> bool:
        return await store.ingest.position() == writer.end

    await until(reached)


async def all_rows(store: Store) -> list[dict[str, Any]]:
    """Read every row, in order."""
    rows: list[dict[str, Any]] = []
    while page := await store.events.page(after_seq=rows[-1]["seq"] if rows else 0, limit=1000):
        rows += page
    return rows
