"""Hand events from a sensor process to the collector: both ends of `<run-directory>/events.sock`.

A unix stream socket; lines of JSON, each ended by LF, at most `MAX_LINE_BYTES` with it:

    sensor:     {"source": S}             which place the events come from, once
    collector:  {"cursor": C or null}     the last cursor of S that it holds durably
    sensor:     {"event": {…}}            one event of S; cursors grow
    collector:  {"ack": C}                everything up to C is durable

What the collector already holds when the sensor (re)connects is not sent again, and an event whose cursor is not above
the last one of its connection is refused, so that an event arrives once however often either side dies or hangs up.
The sensor keeps what is not acknowledged, bounded by number and bytes; when that is full it counts what it must drop
and tells it as one `evidence.dropped` as soon as there is room.

The collector hears only processes of root and of its own user (SO_PEERCRED). A peer that sends anything else than the
above is hung up on; the collector lives on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from decnet_core.errors import DecnetError, RemoteProtocolError, Unavailable
from decnet_core.events import Event, EventType, Trust, cursor_key

MAX_LINE_BYTES = 256 << 10
"""An event's texts are bounded by 8192 characters each; JSON makes up to six bytes of one."""
MAX_BATCH = 512
"""Events that are made durable together: the collector's fsync is what costs."""
MAX_BUFFERED_EVENTS = 20_000
MAX_BUFFERED_BYTES = 16 << 20
"""An hour of a busy attacker while the collector is away; a flood is dropped and counted."""
MAX_SENSORS = 16

ANSWER_SECS = 30.0
"""How long an acknowledgement may take: a worker's disk under load, not longer."""
RETRY_SECS = 0.5

_MAX_SOURCE = 128
_EVENT_KEYS = frozenset(
    {"at", "decky", "service", "event_type", "trust", "cursor", "src_ip", "src_port", "dst_ip", "dst_port"}
    | {"session", "pid", "fields", "text"}
)
_TEXTS = ("decky", "service", "event_type", "cursor", "text")
_OPTIONAL_TEXTS = ("src_ip", "dst_ip", "session")
_OPTIONAL_NUMBERS = ("src_port", "dst_port", "pid")

LastCursor = Callable[[str], str | None]
Append = Callable[[list[Event]], Awaitable[None]]

log = structlog.get_logger()


# The codec


def encode(message: dict[str, Any]) -> bytes:
    """Make one line; ASCII, so that no text can hold a line's end or broken UTF-8."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Read one line into an object.

    Raises:
        RemoteProtocolError: too long, no LF, no JSON, no object.
    """
    if len(line) > MAX_LINE_BYTES or not line.endswith(b"\n"):
        raise RemoteProtocolError("A line of the evidence channel is too long or cut off")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise RemoteProtocolError("A line of the evidence channel is no JSON object")
    return message


def event_to_json(event: Event) -> dict[str, Any]:
    """Write an event without its source, which the connection has told."""
    return {
        "at": event.at.isoformat(),
        "decky": event.decky,
        "service": event.service,
        "event_type": str(event.event_type),
        "trust": event.trust.value,
        "cursor": event.cursor,
        "src_ip": event.src_ip,
        "src_port": event.src_port,
        "dst_ip": event.dst_ip,
        "dst_port": event.dst_port,
        "session": event.session,
        "pid": event.pid,
        "fields": dict(event.fields),
        "text": event.text,
    }


def event_from_json(source: str, data: object) -> Event:
    """Read an event.

    Raises:
        RemoteProtocolError: a member is missing, unknown or not what it must be.
    """
    if not isinstance(data, dict) or data.keys() != _EVENT_KEYS:
        raise RemoteProtocolError("An event on the evidence channel has missing or unknown members")
    fields = data["fields"]
    fits = (
        all(isinstance(data[key], str) for key in _TEXTS)
        and all(data[key] is None or isinstance(data[key], str) for key in _OPTIONAL_TEXTS)
        and all(data[key] is None or type(data[key]) is int for key in _OPTIONAL_NUMBERS)
        and isinstance(fields, dict)
        and all(isinstance(value, str) for value in fields.values())
        and isinstance(data["trust"], str)
        and data["trust"] in set(Trust)
    )
    if not fits:
        raise RemoteProtocolError("An event on the evidence channel has a member of the wrong kind")
    cursor_key(data["cursor"])
    return Event(**{**data, "at": _time(data["at"]), "trust": Trust(data["trust"]), "source": source})


def _time(text: object) -> datetime:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        at = None
    if at is None or at.utcoffset() is None:
        raise RemoteProtocolError("An event on the evidence channel has no proper time")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise RemoteProtocolError("An event on the evidence channel has a time beyond the calendar") from None


# The collector's end


async def serve_evidence(
    path: Path,
    last_cursor: LastCursor,
    append: Append,
    *,
    ready: Callable[[], None] | None = None,
    connected: Callable[[int], None] | None = None,
) -> None:
    """Serve sensors until cancelled.

    Args:
        path: the socket; what a dead predecessor left there is replaced. Its folder must not be writable by others.
        last_cursor: gives the last durable cursor of a source, or None.
        append: makes events durable, in order; only then does it return.
        ready: called once the socket listens.
        connected: called with the number of connected sensors whenever that changes.

    Raises:
        Unavailable: the socket cannot be made.
        DecnetError: what `append` raised, after the sensors were hung up on: the collector is broken.
    """
    sensors = _Sensors(last_cursor, append, connected)
    server = await asyncio.start_unix_server(sensors.serve, sock=_listen(path), limit=MAX_LINE_BYTES)
    try:
        if ready:
            ready()
        await sensors.broken
    finally:
        server.close()
        await sensors.hang_up()


class _Sensors:
    """The connections of the collector's end."""

    def __init__(self, last_cursor: LastCursor, append: Append, connected: Callable[[int], None] | None) -> None:
        self._last_cursor, self._append, self._connected = last_cursor, append, connected
        self._tasks: set[asyncio.Task[None]] = set()
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the error of an `append` that failed."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if len(self._tasks) >= MAX_SENSORS or task is None or not _is_ours(writer):
            log.warning("evidence.sensor_refused")
            writer.close()
            return
        self._tasks.add(task)
        self._tell()
        try:
            await _receive(reader, writer, self._last_cursor, self._append)
        except (RemoteProtocolError, OSError, ValueError) as cause:  # TimeoutError is an OSError
            # ValueError is what asyncio's reader makes of a line beyond its limit.
            log.warning("evidence.sensor_lost", reason=str(cause) or type(cause).__name__)
        except DecnetError as cause:
            if not self.broken.done():
                self.broken.set_exception(cause)
        except asyncio.CancelledError:
            # Only the end of the server cancels us, and asyncio's own callback cannot take a cancelled task.
            log.debug("evidence.sensor_lost", reason="the collector ends")
        finally:
            self._tasks.discard(task)
            self._tell()
            writer.close()

    async def hang_up(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _tell(self) -> None:
        if self._connected:
            self._connected(len(self._tasks))


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(MAX_SENSORS)
    except OSError as cause:
        listener.close()
        raise Unavailable(
            f"Cannot listen on {path}: {cause.strerror or cause}",
            "Make run-directory a folder that this user may write.",
        ) from cause
    return listener


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    return peer_uid(writer.get_extra_info("socket")) in {0, os.getuid()}


def peer_uid(connection: Any) -> int:
    """Tell who made the other end of a connected unix socket (SO_PEERCRED, unix(7))."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("=iII", credentials)[1])


async def _receive(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, last_cursor: LastCursor, append: Append
) -> None:
    async with asyncio.timeout(ANSWER_SECS):
        hello = decode(await reader.readline())
    source = hello.get("source")
    if hello.keys() != {"source"} or not isinstance(source, str) or not 0 < len(source) <= _MAX_SOURCE:
        raise RemoteProtocolError("A sensor did not begin with its source")
    cursor = last_cursor(source)
    writer.write(encode({"cursor": cursor}))
    reached = cursor_key(cursor) if cursor is not None else ()
    while first := await reader.readline():
        batch: list[Event] = []
        for line in await _with_waiting(first, reader):
            message = decode(line)
            event = event_from_json(source, message.get("event"))
            if message.keys() != {"event"} or cursor_key(event.cursor) <= reached:
                raise RemoteProtocolError("A sensor sent something else than its next event")
            reached = cursor_key(event.cursor)
            batch.append(event)
        await append(batch)
        writer.write(encode({"ack": batch[-1].cursor}))
        async with asyncio.timeout(ANSWER_SECS):
            await writer.drain()


async def _with_waiting(first: bytes, reader: asyncio.StreamReader) -> list[bytes]:
    """Take the lines that are there already along, without waiting for more than a turn of the loop."""
    lines = [first]
    while len(lines) < MAX_BATCH:
        try:
            async with asyncio.timeout(0.001):
                line = await reader.readline()
        except TimeoutError:
            break
        if not line:
            break
        lines.append(line)
    return lines


# The sensor's end


class EvidenceSender:
    """Holds a sensor's events until the collector has them.

    Args:
        path: the collector's socket; it may appear later and disappear in between.
        source: name of this run of the sensor; cursors count from 1 within it.
    """

    def __init__(
        self,
        path: Path,
        source: str,
        *,
        max_events: int = MAX_BUFFERED_EVENTS,
        max_bytes: int = MAX_BUFFERED_BYTES,
    ) -> None:
        self.source = source
        self._path = path
        self._max_events, self._max_bytes = max_events, max_bytes
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._unsent: deque[tuple[int, bytes]] = deque()  # the end of _waiting that this connection has not seen
        self._waiting_bytes = 0
        self._last = 0
        self._dropped = 0
        self._more = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def offer(self, event: Event) -> None:
        """Take an event; its source and cursor are set here. One that finds no room is counted as dropped."""
        if self._dropped and self._has_room():
            dropped, self._dropped = self._dropped, 0
            log.warning("evidence.dropped", count=dropped, reason="buffer-full")
            self._put(evidence_dropped(dropped, "buffer-full", event.at))
        if self._has_room():
            self._put(event)
        else:
            self._dropped += 1

    async def drained(self) -> None:
        """Wait until the collector holds everything that was offered."""
        await self._empty.wait()

    def undelivered(self) -> list[bytes]:
        """Return what the collector has not acknowledged, as the lines that `restore` takes."""
        return [line for _, line in self._waiting]

    def restore(self, lines: list[bytes]) -> None:
        """Take over what an earlier sender of this source could not deliver; only before `run`.

        Raises:
            RemoteProtocolError: the lines are not what `undelivered` returned.
        """
        for line in lines:
            event = event_from_json(self.source, decode(line).get("event"))
            (number,) = cursor_key(event.cursor)
            if number <= self._last:
                raise RemoteProtocolError("The cursors of undelivered events do not grow")
            self._last = number
            self._keep(line)

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
        return len(self._waiting) < self._max_events - 1 and self._waiting_bytes < self._max_bytes

    def _put(self, event: Event) -> None:
        self._last += 1
        line = encode({"event": event_to_json(replace(event, source=self.source, cursor=str(self._last)))})
        if len(line) > MAX_LINE_BYTES:
            self._dropped += 1
            return
        self._keep(line)

    def _keep(self, line: bytes) -> None:
        self._waiting.append((self._last, line))
        self._unsent.append((self._last, line))
        self._waiting_bytes += len(line)
        self._empty.clear()
        self._more.set()

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
        if reached > self._last:
            raise RemoteProtocolError("The collector acknowledged what was never sent")
        while self._waiting and self._waiting[0][0] <= reached:
            self._waiting_bytes -= len(self._waiting.popleft()[1])
        if not self._waiting:
            self._empty.set()


def evidence_dropped(count: int, reason: str, at: datetime, decky: str = "-") -> Event:
    """Make the event that tells of lost evidence; it is about ourselves, so no decky need be named."""
    fields = {"count": str(count), "reason": reason}
    return Event(at, decky, "decnet", EventType.EVIDENCE_DROPPED, Trust.SENSOR, "", "0", fields=fields)
