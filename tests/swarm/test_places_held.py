"""Strangers who hold a server's places, in every way there is, and the worker who comes all the same."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle, islice
from pathlib import Path

import pytest

from decnet_core.daemon import Ready
from decnet_core.endpoints import Endpoint, listen
from decnet_core.identity import MASTER
from decnet_core.pki.tls import Clients, server_context, unverified_context
from decnet_master.enrolment.routes import LIMITS
from decnet_master.http_app import bare_app
from decnet_master.http_server import Limits, serve
from decnet_master.swarmctl.app import App
from tests.pki.world import Ca
from tests.swarm.master import port_of, under_way

WAIT_SECS = 8
"""A bound for what takes milliseconds, and under the ten seconds after which silence is ended anyhow."""

HEAD = b"GET /ca HTTP/1.1\r\nhost: a\r\n"
HOLDING = {
    "silent": b"",
    "one byte": b"G",
    "half a head": HEAD,
    "half a body": b"POST /join HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{",
    "answered": HEAD + b"\r\n",
}
HALF_A_HANDSHAKE = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@pytest.mark.parametrize("way", HOLDING)
async def test_who_holds_all_places_keeps_no_worker_out(tmp_path: Path, way: str) -> None:
    async with serving(tmp_path, places=6) as port, held(port, [HOLDING[way]] * 8):
        for _ in range(3):
            assert (await ask(port)).startswith(b"HTTP/1.1 200")


async def test_half_handshakes_keep_no_worker_out(tmp_path: Path) -> None:
    async with serving(tmp_path, places=6) as port:
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(80)]
        for _, writer in strangers:
            writer.write(HALF_A_HANDSHAKE)
        assert (await ask(port)).startswith(b"HTTP/1.1 200")
        for _, writer in strangers:
            writer.close()


async def test_the_enrolment_endpoint_has_such_places(swarm: App) -> None:
    port = port_of(swarm.enrolment_socket)
    async with held(port, list(islice(cycle(HOLDING.values()), LIMITS.connections + 4))):
        assert (await ask(port)).startswith(b"HTTP/1.1 200")


@asynccontextmanager
async def serving(folder: Path, places: int) -> AsyncIterator[int]:
    """Serve over TLS without asking for a certificate, like the enrolment endpoint."""
    app = bare_app()

    @app.get("/ca")
    async def ca() -> dict[str, str]:
        return {}

    bound = listen(Endpoint("127.0.0.1", 0), "test")
    context = server_context(Ca.make().files(folder / "master", MASTER), clients=Clients.ASKED)
    ready = Ready(1)
    async with under_way(serve(app, bound, ready=ready, tls=context, limits=Limits(connections=places)), ready):
        yield port_of(bound)


@asynccontextmanager
async def held(port: int, words: Sequence[bytes]) -> AsyncIterator[None]:
    """Connect from one address, once for each of the words, say them and stay."""
    writers = []
    try:
        for said in words:
            _, writer = await connect(port, "127.0.0.66")
            writers.append(writer)
            writer.write(said)
        yield
    finally:
        for writer in writers:
            writer.transport.abort()


async def ask(port: int) -> bytes:
    """Do what a worker does first."""
    async with asyncio.timeout(WAIT_SECS):
        reader, writer = await connect(port, "127.0.0.7")
        writer.write(HEAD + b"connection: close\r\n\r\n")
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            return await reader.read()
        return b""


async def connect(port: int, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(WAIT_SECS):
        return await asyncio.open_connection("127.0.0.1", port, ssl=unverified_context(), local_addr=(source, 0))
