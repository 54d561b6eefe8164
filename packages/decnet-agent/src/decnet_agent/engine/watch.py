"""Watch the engine without a thread for each container: HTTP over its unix socket, read-only, on the event loop.

The Docker library blocks: following a hundred consoles with it takes a hundred threads. Here a follower is one
coroutine and one socket. Only what watching needs is spoken: `GET`, one request a connection, an answer by
Content-Length, by chunks or to the end of the connection (RFC 9112 §6).

A console's record comes as the engine's log stream: raw text for a container with a terminal, else frames of
8 bytes of header (stream, 3 zero bytes, 32-bit big-endian length) and their text. With `timestamps=1` each record
begins with its time in nanoseconds. `ConsoleLines` (sans-IO) cuts lines out of either; a line longer than
`MAX_LINE_BYTES` keeps its beginning.

It changes nothing in the engine: `engine` does.
Source: Docker Engine API 1.41, ContainerLogs and ContainerAttach (stream format).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from decnet_core.errors import ConfigError, NotFound, RemoteProtocolError, Unavailable

MAX_LINE_BYTES = 16 * 1024
"""rsyslog's default line is 8 KiB at most; the engine itself cuts records at 16 KiB."""

ANSWER_SECS = 20.0
"""Until the engine begins its answer; listing a few hundred containers takes it under a second."""

_MAX_BODY_BYTES = 16 << 20
_MAX_HEADER_BYTES = 64 << 10
_READ_BYTES = 64 << 10
_MAX_FRAME_BYTES = 4 << 20

_STAMP = re.compile(rb"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?Z ")


@dataclass(frozen=True, slots=True)
class ConsoleLine:
    """One line of a container's console.

    Attributes:
        at_ns: when the engine took it, Unix time in nanoseconds.
        text: the line without its end.
        truncated: it was longer than `MAX_LINE_BYTES`.
    """

    at_ns: int
    text: bytes
    truncated: bool = False


class ConsoleLines:
    """Cuts the lines out of one console's stream.

    Args:
        tty: the container has a terminal, so the stream has no frames.
    """

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._frame = bytearray()
        self._partial: dict[int, bytearray] = {}
        self._cut: set[int] = set()

    def feed(self, data: bytes) -> list[ConsoleLine]:
        """Take what arrived and return the lines that it completes.

        Raises:
            RemoteProtocolError: the stream is not the engine's.
        """
        if self._tty:
            return self._lines(1, data)
        self._frame += data
        lines: list[ConsoleLine] = []
        start = 0
        while len(self._frame) - start >= 8:
            stream, length = self._frame[start], int.from_bytes(self._frame[start + 4 : start + 8], "big")
            if stream > 3 or length > _MAX_FRAME_BYTES:
                raise RemoteProtocolError("The engine's log stream has a malformed frame")
            if len(self._frame) - start - 8 < length:
                break
            lines += self._lines(stream, bytes(self._frame[start + 8 : start + 8 + length]))
            start += 8 + length
        del self._frame[:start]
        return lines

    def _lines(self, stream: int, data: bytes) -> list[ConsoleLine]:
        partial = self._partial.setdefault(stream, bytearray())
        *whole, rest = data.split(b"\n")
        lines: list[ConsoleLine] = []
        for piece in whole:
            self._add(stream, partial, piece)
            lines.append(_line(bytes(partial), truncated=stream in self._cut))
            partial.clear()
            self._cut.discard(stream)
        self._add(stream, partial, rest)
        return lines

    def _add(self, stream: int, partial: bytearray, piece: bytes) -> None:
        room = MAX_LINE_BYTES - len(partial)
        if len(piece) > room:
            self._cut.add(stream)
        partial += piece[: max(room, 0)]


@dataclass(frozen=True, slots=True)
class SeenContainer:
    """A decky's container as the engine lists it; one that is paused counts as running."""

    id: str
    name: str
    running: bool
    labels: Mapping[str, str]
    image: str
    paused: bool = False


class EngineWatch:
    """Reads from one engine.

    Args:
        docker_host: `unix://` and the socket's path.

    Raises:
        ConfigError: another kind of address; a remote engine is never watched.
    """

    def __init__(self, docker_host: str) -> None:
        scheme, _, path = docker_host.partition("://")
        if scheme != "unix" or not path.startswith("/"):
            raise ConfigError(f"docker-host is not a unix socket: {docker_host[:80]}", "Write it as unix:///path.")
        self._path = path

    async def version(self) -> str:
        """Return the engine's version.

        Raises:
            Unavailable: it does not answer.
        """
        document = await self._json("/version")
        return str(document.get("Version", "?")) if isinstance(document, dict) else "?"

    async def containers(self, label: str) -> list[SeenContainer]:
        """List the containers that carry a label, running or not.

        Raises:
            Unavailable: the engine does not answer.
        """
        filters = quote(json.dumps({"label": [label]}))
        document = await self._json(f"/containers/json?all=1&filters={filters}")
        try:
            return [
                SeenContainer(
                    id=item["Id"],
                    name=item["Names"][0].removeprefix("/") if item["Names"] else "",
                    running=item["State"] in {"running", "restarting", "paused"},
                    paused=item["State"] == "paused",
                    labels=item["Labels"],
                    image=item["Image"],
                )
                for item in document
            ]
        except (KeyError, TypeError, IndexError) as cause:
            raise RemoteProtocolError("The engine's list of containers is not what its API says") from cause

    async def image_tags(self) -> frozenset[str]:
        """Return the names of all images.

        Raises:
            Unavailable: the engine does not answer.
        """
        document = await self._json("/images/json")
        try:
            return frozenset(tag for item in document for tag in item.get("RepoTags") or ())
        except (AttributeError, TypeError) as cause:
            raise RemoteProtocolError("The engine's list of images is not what its API says") from cause

    async def inspect(self, container: str) -> Mapping[str, Any]:
        """Return what the engine knows of one container.

        Raises:
            NotFound: it is gone.
            Unavailable: the engine does not answer.
        """
        document = await self._json(f"/containers/{container}/json")
        if not isinstance(document, dict):
            raise RemoteProtocolError("The engine's description of a container is not what its API says")
        return document

    async def console(
        self, container: str, *, tty: bool, since_ns: int, follow: bool = True
    ) -> AsyncIterator[list[ConsoleLine]]:
        """Read a console from a time on, lines of that very nanosecond included.

        Args:
            container: its id.
            tty: whether it has a terminal.
            since_ns: the time, Unix time in nanoseconds.
            follow: until the container ends, instead of what is recorded now. The engine may end the stream before
                it has sent the last lines of a container that ends; they are in its record.

        Raises:
            NotFound: the container is gone.
            Unavailable: the engine went away.
        """
        seconds, nanos = divmod(since_ns, 10**9)
        query = f"follow={int(follow)}&stdout=1&stderr=1&timestamps=1&since={seconds}.{nanos:09d}"
        cutter = ConsoleLines(tty=tty)
        async with self._get(f"/containers/{container}/logs?{query}") as body:
            async for chunk in body:
                lines = cutter.feed(chunk)
                if lines:
                    yield lines

    async def _json(self, target: str) -> Any:
        collected = bytearray()
        try:
            async with asyncio.timeout(ANSWER_SECS), self._get(target) as body:
                async for chunk in body:
                    collected += chunk
                    if len(collected) > _MAX_BODY_BYTES:
                        raise RemoteProtocolError("The engine's answer is too long")
            return json.loads(collected)
        except TimeoutError as cause:
            raise self._silent() from cause
        except ValueError as cause:
            raise RemoteProtocolError("The engine's answer is not JSON") from cause

    @asynccontextmanager
    async def _get(self, target: str) -> AsyncIterator[AsyncIterator[bytes]]:
        try:
            async with asyncio.timeout(ANSWER_SECS):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=_MAX_HEADER_BYTES)
        except (OSError, TimeoutError) as cause:
            raise self._silent() from cause
        try:
            writer.write(f"GET {target} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n".encode())
            async with asyncio.timeout(ANSWER_SECS):
                status, headers = await _read_head(reader)
            body = _read_body(reader, headers)
            if status == 404:
                raise NotFound("The container is gone", "Deploy again if it should be there.")
            if status != 200:
                raise Unavailable(f"The engine refused {target.partition('?')[0]} with {status}", "See its journal.")
            yield body
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as cause:
            raise self._silent() from cause
        finally:
            writer.transport.abort()

    def _silent(self) -> Unavailable:
        return Unavailable(
            f"No Docker engine answers at unix://{self._path}",
            "Start Docker (`systemctl start docker`), let this user read its socket (group docker), "
            "or set docker-host.",
        )


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes]]:
    head = await reader.readuntil(b"\r\n\r\n")
    status_line, *lines = head[:-4].split(b"\r\n")
    parts = status_line.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        raise RemoteProtocolError("The engine does not speak HTTP/1.1")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    return int(parts[1]), headers


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[bytes, bytes]) -> AsyncIterator[bytes]:
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        while True:
            length = _chunk_length(await reader.readuntil(b"\r\n"))
            if length == 0:
                return
            async for data in _exactly(reader, length):
                yield data
            await reader.readexactly(2)
    elif headers.get(b"content-length", b"").isdigit():
        async for data in _exactly(reader, int(headers[b"content-length"])):
            yield data
    else:
        while data := await reader.read(_READ_BYTES):
            yield data


async def _exactly(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    while length:
        data = await reader.read(min(length, _READ_BYTES))
        if not data:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(data)
        yield data


def _chunk_length(line: bytes) -> int:
    digits = line.split(b";", 1)[0].strip()
    if not 0 < len(digits) <= 8 or re.fullmatch(rb"[0-9a-fA-F]+", digits) is None:
        raise RemoteProtocolError("The engine's answer has a malformed chunk")
    return int(digits, 16)


def _line(record: bytes, *, truncated: bool) -> ConsoleLine:
    match = _STAMP.match(record)
    if match is None:
        raise RemoteProtocolError("The engine's log stream has a record without a time")
    *parts, fraction = match.groups(default=b"")
    try:
        at = datetime(*(int(part) for part in parts), tzinfo=UTC)  # type: ignore[misc, arg-type]  # six numbers
    except ValueError as cause:
        raise RemoteProtocolError("The engine's log stream has a time that does not exist") from cause
    at_ns = int(at.timestamp()) * 10**9 + int(fraction.ljust(9, b"0"))
    return ConsoleLine(at_ns, record[match.end() :].rstrip(b"\r"), truncated)
