"""A collector's memory, behind the real end of its channel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from decnet_agent.evidence.sensors import serve_evidence
from decnet_core.events import Event


class Collector:
    """What arrived, in order, and the last cursor of each source."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def last_cursor(self, source: str) -> str | None:
        return next((event.cursor for event in reversed(self.events) if event.source == source), None)

    async def append(self, events: list[Event]) -> None:
        self.events += events


@contextlib.asynccontextmanager
async def listening(path: Path, collector: Collector) -> AsyncIterator[None]:
    """Serve a collector while the body runs."""
    ready = asyncio.Event()
    serving = asyncio.create_task(serve_evidence(path, collector.last_cursor, collector.append, ready=ready.set))
    await asyncio.wait_for(ready.wait(), 10)
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
