"""The sensor's end of the evidence channel: hold events until the collector has them.

What is not acknowledged is kept, bounded by number and bytes; when that is full the sender counts what it must drop
and tells it as one `evidence.dropped` as soon as there is room. See `channel` for what goes over the socket.

A sensor that must not lose what it has seen when it is killed makes a sender that is `held`: what is offered goes out
only after `release`, which the sensor calls when it has written `unreleased` down.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import structlog

from decnet_agent.evidence.channel import (
    ANSWER_SECS,
    MAX_BATCH,
    MAX_LINE_BYTES,
    decode,
    encode,
    event_from_json,
    event_to_json,
)
from decnet_core.errors import RemoteProtocolError
from decnet_core.events import Event, EventType, Trust, cursor_key

MAX_BUFFERED_EVENTS = 20_000
MAX_BUFFERED_BYTES = 16 << 20
"""An hour of a busy attacker while the collector is away; a flood is dropped and counted."""
RETRY_SECS = 0.5

log = structlog.get_logger()


class EvidenceSender:
    """Holds a sensor's events until the collector has them.

    Args:
        path: the collector's socket; it may appear later and disappear in between.
        source: name of this run of the sensor; cursors count from 1 within it.
        held: whether what is offered waits for `release`.

    Attributes:
        last: the last cursor that was given.
        acknowledged: the last cursor of which the collector said that it has it.
        dropped: events that found no room and are not told of yet.
    """

    def __init__(
        self,
        path: Path,
        source: str,
        *,
        held: bool = False,
        max_events: int = MAX_BUFFERED_EVENTS,
        max_bytes: int = MAX_BUFFERED_BYTES,
    ) -> None:
        self.source = source
        self.last = self.acknowledged = self.dropped = 0
        self._path = path
        self._held = held
        self._unreleased: list[tuple[int, bytes]] = []
        self._max_events, self._max_bytes = max_events, max_bytes
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._unsent: deque[tuple[int, bytes]] = deque()  # the end of _waiting that this connection has not seen
        self._waiting_bytes = 0
        self._more = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def offer(self, event: Event) -> None:
        """Take an event; its source and cursor are set here. One that finds no room is counted as dropped."""
        if self.dropped and self._has_room():
            dropped, self.dropped = self.dropped, 0
            log.warning("evidence.dropped", count=dropped, reason="buffer-full")
            self._put(evidence_dropped(dropped, "buffer-full", event.at))
        if self._has_room():
            self._put(event)
        else:
            self.dropped += 1

    async def drained(self) -> None:
        """Wait until the collector holds everything that was offered."""
        await self._empty.wait()

    def unreleased(self) -> list[tuple[int, bytes]]:
        """Return what was offered since the last `release`: cursors and lines."""
        return self._unreleased

    def release(self) -> None:
        """Let what was offered go out."""
        fresh, self._unreleased = self._unreleased, []
        self._waiting.extend(fresh)
        self._unsent.extend(fresh)
        if fresh:
            self._more.set()

    def undelivered(self) -> list[tuple[int, bytes]]:
        """Return what was offered and not acknowledged: cursors, and lines that `restore` takes."""
        return [*self._waiting, *self._unreleased]

    def restore(self, lines: list[bytes], last: int = 0) -> None:
        """Take over what an earlier sender of this source could not deliver; only before `run`.

        Args:
            lines: of `undelivered`.
            last: the last cursor that the earlier sender gave.

        Raises:
            RemoteProtocolError: the lines are not what `undelivered` returned.
        """
        for line in lines:
            event = event_from_json(self.source, decode(line).get("event"))
            (number,) = cursor_key(event.cursor)
            if number <= self.last:
                raise RemoteProtocolError("The cursors of undelivered events do not grow")
            self.last = number
            self._keep(line)
        self.last = max(self.last, last)
        self.release()

    async def run(self) -> None:
        """Keep a connection and send over it until cancelled."""
        while True:
            try:
                await self._one_connection()
            except (OSError, RemoteProtocolError, ValueError) as cause:  # TimeoutError is an OSError
                log.debug("evidence.collector_missing", reason=type(cause).__name__)
            await asyncio.sleep(RETRY_SECS)

    def _has_room(self) -> bool:
        # One place stays free for the event that tells of drops.
        count = len(self._waiting) + len(self._unreleased)
        return count < self._max_events - 1 and self._waiting_bytes < self._max_bytes

    def _put(self, event: Event) -> None:
        self.last += 1
        line = encode({"event": event_to_json(replace(event, source=self.source, cursor=str(self.last)))})
        if len(line) > MAX_LINE_BYTES:
            self.dropped += 1
            return
        self._keep(line)

    def _keep(self, line: bytes) -> None:
        self._unreleased.append((self.last, line))
        self._waiting_bytes += len(line)
        self._empty.clear()
        if not self._held:
            self.release()

    async def _one_connection(self) -> None:
        async with asyncio.timeout(ANSWER_SECS):
            reader, writer = await asyncio.open_unix_connection(str(self._path), limit=MAX_LINE_BYTES)
        try:
            writer.write(encode({"source": self.source}))
            async with asyncio.timeout(ANSWER_SECS):
                answer = decode(await reader.readline())
            self._acknowledged(answer.get("cursor") or "0")
            log.info("evidence.collector_connected")
            await self._until_lost(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _until_lost(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send and hear side by side until either fails.

        A task group would do, but CPython 3.11's forgets a cancellation that comes in the turn in which a child fails.
        """
        tasks = [asyncio.create_task(self._send(writer)), asyncio.create_task(self._hear(reader))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        self._unsent = deque(self._waiting)
        while True:
            if not self._unsent:
                self._more.clear()
                await self._more.wait()
            count = min(len(self._unsent), MAX_BATCH)
            writer.write(b"".join(self._unsent.popleft()[1] for _ in range(count)))
            async with asyncio.timeout(ANSWER_SECS):
                await writer.drain()

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        while True:
            oldest = self._waiting[0][0] if self._waiting else None
            try:
                async with asyncio.timeout(ANSWER_SECS):
                    line = await reader.readline()
            except TimeoutError:
                # Only while something is owed does silence mean a dead collector.
                if oldest is not None and self._waiting and self._waiting[0][0] == oldest:
                    raise
                continue
            if not line:
                raise ConnectionResetError("The collector hung up")
            self._acknowledged(decode(line).get("ack"))

    def _acknowledged(self, cursor: object) -> None:
        if not isinstance(cursor, str):
            raise RemoteProtocolError("The collector acknowledged no cursor")
        reached = cursor_key(cursor)[0]
        if reached > self.last:
            raise RemoteProtocolError("The collector acknowledged what was never sent")
        self.acknowledged = max(self.acknowledged, reached)
        while self._waiting and self._waiting[0][0] <= reached:
            self._waiting_bytes -= len(self._waiting.popleft()[1])
        if not self._waiting and not self._unreleased:
            self._empty.set()


def evidence_dropped(count: int, reason: str, at: datetime, decky: str = "-") -> Event:
    """Make the event that tells of lost evidence; it is about ourselves, so no decky need be named."""
    fields = {"count": str(count), "reason": reason}
    return Event(at, decky, "decnet", EventType.EVIDENCE_DROPPED, Trust.SENSOR, "", "0", fields=fields)
