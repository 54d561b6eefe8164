"""What a client may cost: each bound of the HTTP servers, held against a client that goes over it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from fastapi import Request
from starlette.types import ASGIApp

from decnet_core.daemon import Ready
from decnet_core.endpoints import Endpoint, listen
from decnet_core.errors import RetryLater
from decnet_master import http_server
from decnet_master.http_app import bare_app
from decnet_master.http_guard import Bounds, Guard
from decnet_master.http_server import Limits, serve
from decnet_master.problems import TooManyRequests, error_of, problem_of
from decnet_master.rate_limit import MAX_CALLERS, RateLimit

WAIT_SECS = 15


def echo(bounds: Bounds) -> ASGIApp:
    app = bare_app()

    @app.post("/")
    async def size(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("secret words")

    return Guard(app, bounds)


@pytest.fixture
async def serving() -> AsyncIterator[Callable]:
    tasks = []

    async def start(bounds: Bounds | None = None, limits: Limits | None = None) -> int:
        listening: socket.socket = listen(Endpoint("127.0.0.1", 0), "test")
        ready = Ready(1)
        app = echo(bounds or Bounds())
        tasks.append(asyncio.create_task(serve(app, listening, ready=ready, limits=limits)))
        async with asyncio.timeout(WAIT_SECS):
            await ready.wait()
        return int(listening.getsockname()[1])

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def ask(port: int, data: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(WAIT_SECS):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def _some(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(4096)
    except ConnectionResetError:
        return b""


POST = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"


async def test_a_body_is_bounded_however_it_comes(serving: Callable) -> None:
    port = await serving(Bounds(body_bytes=10))
    assert b'{"bytes":10}' in await ask(port, POST + b"content-length: 10\r\n\r\n0123456789")
    for too_much in (
        b"content-length: 11\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n6\r\n012345\r\n6\r\n012345\r\n0\r\n\r\n",
    ):
        assert (await ask(port, POST + too_much)).startswith(b"HTTP/1.1 413"), too_much


async def test_a_body_that_does_not_come_is_not_waited_for(serving: Callable) -> None:
    port = await serving(Bounds(body_secs=0.2))
    assert (await ask(port, POST + b"content-length: 10\r\n\r\n012")).startswith(b"HTTP/1.1 408")


async def test_a_head_that_does_not_end_is_cut(serving: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECS", 0.2)
    monkeypatch.setattr(http_server, "KEEP_ALIVE_SECS", 1)
    port = await serving()
    for head in (b"", b"GET / HTTP/1.1\r\nhost: a\r\n"):
        assert await ask(port, head) == b"", head
    # The same on a connection that was used already, also when a byte comes now and then.
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 404")

    async def drip() -> None:
        while True:
            writer.write(b"G")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(WAIT_SECS):
        while await _some(reader):
            pass
    dripping.cancel()
    writer.close()


async def test_a_head_that_is_too_long_is_refused(serving: Callable) -> None:
    port = await serving()
    assert (await ask(port, b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000)).startswith(b"HTTP/1.1 400")


async def test_a_connection_lives_no_longer_than_it_may(serving: Callable) -> None:
    port = await serving(limits=Limits(connection_secs=0.3))
    assert (await ask(port, b"GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n")).startswith(b"HTTP/1.1 404")


async def test_too_many_connections_are_told(serving: Callable) -> None:
    port = await serving(limits=Limits(connections=2))
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    assert (await ask(port, POST + b"content-length: 0\r\n\r\n")).startswith(b"HTTP/1.1 503")
    for _, writer in held:
        writer.close()


async def test_bytes_that_are_no_http_do_no_harm(serving: Callable) -> None:
    port = await serving()
    for noise in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"\n" * 1000):
        await ask(port, noise + b"\r\n\r\n")
    assert b'{"bytes":2}' in await ask(port, POST + b"content-length: 2\r\n\r\nok")


async def test_a_bug_of_ours_quotes_nothing(serving: Callable) -> None:
    port = await serving()
    answer = await ask(port, b"GET /bug HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"urn:decnet:problem:failed" in answer
    assert b"secret words" not in answer


def test_a_problem_becomes_the_same_error_again() -> None:
    sent = problem_of(TooManyRequests("Slower", "Wait."))
    back = error_of(sent.status, sent.document("x"))
    assert type(back) is TooManyRequests
    assert isinstance(back, RetryLater)
    assert (back.message, back.advice) == ("Slower", "Wait.")
    for kind in ("no-workers", "nonsense", None):
        assert error_of(409, {"type": f"urn:decnet:problem:{kind}", "detail": "x"}).message == "x"
    assert error_of(502, {"detail": ["\x1b"]}).message.isprintable()


def test_a_rate_limit_refills_and_stays_small() -> None:
    now = [0.0]
    limit = RateLimit(2, 10.0, total_factor=10**6, clock=lambda: now[0])
    limit.take("a")
    limit.take("a")
    with pytest.raises(TooManyRequests):
        limit.take("a")
    limit.take("b")
    now[0] += 10
    limit.take("a")
    for number in range(MAX_CALLERS + 10):
        limit.take(str(number))
    assert len(limit._callers) == MAX_CALLERS


def test_all_callers_together_are_limited() -> None:
    limit = RateLimit(2, 10.0, total_factor=3, clock=lambda: 0.0)
    for number in range(6):
        limit.take(str(number))
    with pytest.raises(TooManyRequests):
        limit.take("another")
