"""The engine's log stream, cut into lines and counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.engine.watch import MAX_LINE_BYTES, ConsoleLine, ConsoleLines, EngineWatch
from decnet_agent.evidence.console_cursor import Place
from decnet_core.errors import ConfigError, NotFound, RemoteProtocolError, Unavailable

STAMP = b"2026-01-31T12:00:00.123456789Z "
AT_NS = 1769860800123456789

pieces = st.lists(st.integers(1, 40), min_size=1, max_size=200)


def feed_in_pieces(cutter: ConsoleLines, data: bytes, sizes: list[int]) -> list[ConsoleLine]:
    lines: list[ConsoleLine] = []
    while data:
        size = sizes[len(lines) % len(sizes)]
        lines += cutter.feed(data[:size])
        data = data[size:]
    return lines


@given(st.lists(st.binary(max_size=60).filter(lambda text: b"\n" not in text and not text.endswith(b"\r"))), pieces)
def test_a_terminal_s_stream_in_any_pieces(texts, sizes):
    data = b"".join(STAMP + text + b"\r\n" for text in texts)
    assert feed_in_pieces(ConsoleLines(tty=True), data, sizes) == [ConsoleLine(AT_NS, text) for text in texts]


@given(st.lists(st.binary(max_size=60).filter(lambda text: b"\n" not in text and not text.endswith(b"\r"))), pieces)
def test_a_framed_stream_in_any_pieces(texts, sizes):
    data = b""
    for number, text in enumerate(texts):
        record = STAMP + text + b"\n"
        data += bytes([1 + number % 2, 0, 0, 0]) + len(record).to_bytes(4, "big") + record
    assert feed_in_pieces(ConsoleLines(tty=False), data, sizes) == [ConsoleLine(AT_NS, text) for text in texts]


def test_a_long_line_keeps_its_beginning():
    cutter = ConsoleLines(tty=True)
    (line,) = cutter.feed(STAMP + b"x" * 100_000 + b"\n")
    assert line.truncated
    assert len(line.text) == MAX_LINE_BYTES - len(STAMP)
    assert cutter.feed(STAMP + b"next\n") == [ConsoleLine(AT_NS, b"next")]


@pytest.mark.parametrize("data", [b"no time\n", b"2026-13-31T12:00:00Z x\n"])
def test_a_record_without_a_time(data):
    with pytest.raises(RemoteProtocolError):
        ConsoleLines(tty=True).feed(data)


@given(st.binary(max_size=200))
def test_any_frames_are_lines_or_an_error(data):
    with suppress(RemoteProtocolError):
        ConsoleLines(tty=False).feed(data)


times = st.lists(st.integers(1, 12), max_size=30).map(sorted)


@given(times, st.lists(st.integers(0, 30), max_size=6))
def test_resuming_anywhere_gives_each_line_once(stamps, stops):
    """The engine gives everything from a time on; whoever stops and resumes counts each line once."""
    cursors: list[str] = []
    for stop in [*stops, len(stamps)]:
        place = Place(cursors[-1] if cursors else None)
        given = [(number, at) for number, at in enumerate(stamps) if at >= place.since_ns]
        for number, at in given:
            if number >= stop:
                break
            cursor = place.step(at)
            if cursor is not None:
                cursors.append(cursor)
        assert place.gap is None
    assert len(cursors) == len(set(cursors)) == len(stamps)
    assert [int(cursor.split(".")[0]) for cursor in cursors] == stamps


def test_a_clock_that_was_set_back_still_counts_up():
    place = Place(None)
    assert [place.step(at) for at in (5, 7, 3, 4, 7, 8)] == ["5.0", "7.0", "7.1", "7.2", "7.3", "8.0"]


def test_a_rotated_record_is_noticed_once():
    place = Place("100.2")
    assert place.step(140) == "140.0"
    assert place.gap == "100.2.1"
    again = Place("100.2.1")
    assert again.since_ns == 100


@asynccontextmanager
async def engine(folder: Path, answer: bytes) -> AsyncIterator[EngineWatch]:
    """A unix socket that answers every request alike."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    path = folder / "engine.sock"
    server = await asyncio.start_unix_server(respond, path)
    async with server:
        yield EngineWatch(f"unix://{path}")


def chunked(*chunks: bytes) -> bytes:
    body = b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


async def test_a_console_by_chunks(tmp_path):
    async with engine(tmp_path, chunked(STAMP + b"on", b"e\r\n" + STAMP, b"two\r\n")) as watch:
        lines = [line async for batch in watch.console("c", tty=True, since_ns=0) for line in batch]
    assert [line.text for line in lines] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", NotFound),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\n{}", Unavailable),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", Unavailable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", RemoteProtocolError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", RemoteProtocolError),
        (b"", Unavailable),
    ],
)
async def test_an_engine_that_answers_badly(tmp_path, answer, error):
    async with engine(tmp_path, answer) as watch:
        with pytest.raises(error):
            await watch.inspect("c")


async def test_an_engine_that_is_not_there(tmp_path):
    with pytest.raises(Unavailable, match="No Docker engine answers") as raised:
        await EngineWatch(f"unix://{tmp_path}/none.sock").version()
    assert "Start Docker" in raised.value.advice


def test_a_remote_engine_is_not_watched():
    with pytest.raises(ConfigError):
        EngineWatch("tcp://192.0.2.1:2375")
