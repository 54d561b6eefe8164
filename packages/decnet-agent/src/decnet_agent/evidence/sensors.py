"""The collector's end of the evidence channel: hear the sensors, make their events durable, acknowledge.

The collector hears only processes of root and of its own user (SO_PEERCRED). A peer that sends anything else than the
protocol (see `channel`) is hung up on; the collector lives on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from decnet_agent.evidence.channel import ANSWER_SECS, MAX_BATCH, MAX_LINE_BYTES, decode, encode, event_from_json
from decnet_core.errors import DecnetError, RemoteProtocolError, Unavailable
from decnet_core.events import Event, cursor_key

MAX_SENSORS = 16

CONTAINMENT = "containment."
"""How the source of blocked frames begins."""

_MAX_SOURCE = 128

LastCursor = Callable[[str], str | None]
Append = Callable[[list[Event]], Awaitable[None]]

log = structlog.get_logger()


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
        connected: called with the number of connected taps whenever that changes. What contains the deckies delivers
            here too, under a source that says so, and is none.

    Raises:
        Unavailable: the socket cannot be made.
        DecnetError: what `append` raised, after the sensors were hung up on: the collector is broken.
    """
    sensors = _Sensors(last_cursor, append, connected)
    server = await asyncio.start_unix_server(sensors.serve, sock=listen_at(path), limit=MAX_LINE_BYTES)
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
        self._tasks: dict[asyncio.Task[None], str] = {}
        """Of each connection, and the source that it has told."""
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the error of an `append` that failed."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if len(self._tasks) >= MAX_SENSORS or task is None or not is_ours(writer):
            log.warning("evidence.sensor_refused")
            writer.close()
            return
        self._tasks[task] = ""

        def told(source: str) -> None:
            self._tasks[task] = source
            self._tell()

        try:
            await _receive(reader, writer, self._last_cursor, self._append, told)
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
            self._tasks.pop(task, None)
            self._tell()
            writer.close()

    async def hang_up(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _tell(self) -> None:
        if self._connected:
            taps = [source for source in self._tasks.values() if source and not source.startswith(CONTAINMENT)]
            self._connected(len(taps))


def listen_at(path: Path) -> socket.socket:
    """Make a socket that this user and root alone can connect to, in place of a dead predecessor's.

    Raises:
        Unavailable: it cannot be made.
    """
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


def is_ours(writer: asyncio.StreamWriter) -> bool:
    """Tell whether root or our own user made the other end of a connection."""
    return peer_uid(writer.get_extra_info("socket")) in {0, os.getuid()}


def peer_uid(connection: Any) -> int:
    """Tell who made the other end of a connected unix socket (SO_PEERCRED, unix(7))."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("=iII", credentials)[1])


async def _receive(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    last_cursor: LastCursor,
    append: Append,
    told: Callable[[str], None],
) -> None:
    async with asyncio.timeout(ANSWER_SECS):
        hello = decode(await reader.readline())
    source = hello.get("source")
    if hello.keys() != {"source"} or not isinstance(source, str) or not 0 < len(source) <= _MAX_SOURCE:
        raise RemoteProtocolError("A sensor did not begin with its source")
    told(source)
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
