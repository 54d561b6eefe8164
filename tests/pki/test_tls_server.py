"""Strangers who only connect: they take no memory, no descriptors and nobody's turn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from asyncio import sslproto
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from decnet_core.endpoints import Endpoint, listen
from decnet_core.pki.tls import IdentityFiles, client_context, server_context
from decnet_core.tls_server import TOLD_AT_ONCE, TlsServer
from tests.pki.world import AGENT, MASTER, MASTER_HOST, WAIT_SECS, Ca

LIMIT = 8


class Hello(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello\n")
        transport.close()


@pytest.fixture(autouse=True)
def _asyncio_as_it_was() -> Iterator[None]:
    before = sslproto.SSLProtocol.max_size
    yield
    sslproto.SSLProtocol.max_size = before


@pytest.fixture
def master(ca: Ca, tmp_path: Path) -> IdentityFiles:
    return ca.files(tmp_path / "master", MASTER)


@pytest.fixture
def agent(ca: Ca, tmp_path: Path) -> IdentityFiles:
    return ca.files(tmp_path / "agent", AGENT)


@contextlib.asynccontextmanager
async def serving(master: IdentityFiles) -> AsyncIterator[tuple[str, int]]:
    listener = listen(Endpoint("127.0.0.1", 0), "an-address")
    address = listener.getsockname()
    server = TlsServer(listener, server_context(master), Hello, handshake_secs=60, max_handshakes=LIMIT)
    try:
        yield address
    finally:
        server.close()
        async with asyncio.timeout(WAIT_SECS):
            await server.wait_closed()


async def silent(address: tuple[str, int], count: int) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    strangers = [socket.socket() for _ in range(count)]
    for stranger in strangers:
        stranger.setblocking(False)
        await loop.sock_connect(stranger, address)
    return strangers


async def greeting(address: tuple[str, int], files: IdentityFiles) -> bytes:
    context = client_context(files, files.ca)
    async with asyncio.timeout(WAIT_SECS):
        reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=MASTER_HOST)
        try:
            return await reader.readline()
        finally:
            writer.close()


async def test_silent_peers_keep_nobody_waiting(master, agent):
    async with serving(master) as address:
        strangers = await silent(address, LIMIT * 4)
        assert await greeting(address, agent) == b"hello\n"
        for stranger in strangers:
            stranger.close()


async def test_the_oldest_handshakes_are_ended_first(master):
    loop = asyncio.get_running_loop()
    async with serving(master) as address:
        strangers = await silent(address, LIMIT * 2)
        async with asyncio.timeout(WAIT_SECS):
            for stranger in strangers[:LIMIT]:
                with contextlib.suppress(ConnectionError):
                    assert await loop.sock_recv(stranger, 1) == b""
                stranger.close()
        for stranger in strangers[LIMIT:]:
            with pytest.raises(BlockingIOError):
                stranger.recv(1)
            stranger.close()


async def test_whoever_speaks_no_tls_is_hung_up_on_and_the_next_one_served(master, agent):
    loop = asyncio.get_running_loop()
    async with serving(master) as address:
        (stranger,) = await silent(address, 1)
        await loop.sock_sendall(stranger, b"GET / HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(WAIT_SECS):
            with contextlib.suppress(ConnectionError):
                while await loop.sock_recv(stranger, 100):
                    pass
        stranger.close()
        assert await greeting(address, agent) == b"hello\n"


async def test_what_is_refused_is_told_and_strangers_do_not_fill_the_log(master, agent, tmp_path):
    expired = Ca.make().files(tmp_path / "stranger", AGENT)
    context = client_context(expired, master.ca)
    with capture_logs() as logs:
        async with serving(master) as address:
            for _ in range(TOLD_AT_ONCE + 5):
                with contextlib.suppress(OSError):
                    async with asyncio.timeout(WAIT_SECS):
                        reader, writer = await asyncio.open_connection(
                            *address, ssl=context, server_hostname=MASTER_HOST
                        )
                        await reader.read()
                        writer.transport.abort()
            assert await greeting(address, agent) == b"hello\n"
    told = [line for line in logs if line["event"] == "handshake.failed"]
    assert len(told) == TOLD_AT_ONCE
    assert {line["address"] for line in told} == {"127.0.0.1"}
    assert all("certificate" in line["reason"] for line in told)


async def test_its_end_takes_handshakes_along(master):
    loop = asyncio.get_running_loop()
    async with serving(master) as address:
        strangers = await silent(address, LIMIT)
    async with asyncio.timeout(WAIT_SECS):
        for stranger in strangers:
            with contextlib.suppress(ConnectionError):
                assert await loop.sock_recv(stranger, 1) == b""
            stranger.close()
