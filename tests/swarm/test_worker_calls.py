"""What the master makes of a worker that answers badly, slowly, endlessly, or is not who it should be."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from decnet_core.errors import DecnetError, RemoteProtocolError, TrustError, Unavailable
from decnet_core.fleet import Health
from decnet_core.identity import MASTER, Identity, Role
from decnet_core.pki.tls import IdentityFiles, client_context, server_context
from decnet_master.swarmctl import worker_calls
from decnet_master.swarmctl.worker_calls import Worker, WorkerCalls
from tests.pki.world import Ca

HOST = "w1"
AGENT = Identity(Role.AGENT, HOST)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HEALTH = Health(role="agent", host=HOST, version="0.1.0").model_dump_json().encode()

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Pki:
    """A CA, and where the identities that it issued lie."""

    ca: Ca
    folder: Path

    def files(self, identity: Identity) -> IdentityFiles:
        return self.ca.files(self.folder / str(identity), identity)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(Ca.make(), tmp_path_factory.mktemp("pki"))


def answering(*parts: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()

    return script


def http(body: bytes, status: str = "200 OK", *headers: bytes) -> bytes:
    return b"\r\n".join([f"HTTP/1.1 {status}".encode(), b"Content-Length: %d" % len(body), *headers, b"", body])


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None) -> AsyncIterator[Worker]:
    """Serve by a script; at the end every connection is over."""
    connections: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):  # the master hung up
            await script(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield Worker(HOST, "127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()
        async with asyncio.timeout(60):
            await asyncio.gather(*connections)
            for writer in writers:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


def worker(pki: Pki, script: Script, identity: Identity = AGENT) -> AbstractAsyncContextManager[Worker]:
    """Serve as a worker's daemon of an identity."""
    return serving(script, server_context(pki.files(identity)))


async def ask(pki: Pki, worker: Worker, *, total_secs: float = 60.0, current: bool = True) -> Health:
    files = pki.files(MASTER)
    context = client_context(files, files.ca)

    async def is_current(_identity: Identity, _fingerprint: str) -> bool:
        return current

    calls = WorkerCalls(Role.AGENT, lambda: context, is_current)
    return await calls.call(worker, "/health", None, answer=Health, total_secs=total_secs)


@pytest.mark.parametrize(
    "script",
    [
        answering(http(HEALTH)),
        answering(*(http(HEALTH)[at : at + 1] for at in range(len(http(HEALTH))))),
        answering(b"HTTP/1.1 103 Early Hints\r\n\r\n" + http(HEALTH)),
        answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + HEALTH),
        answering(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(HEALTH), HEALTH)
        ),
    ],
    ids=["plain", "byte by byte", "after a hint", "until the end", "chunked"],
)
async def test_an_answer_is_read_however_it_comes(pki: Pki, script: Script) -> None:
    async with worker(pki, script) as asked:
        assert (await ask(pki, asked)).host == HOST


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (answering(b""), Unavailable, "broke"),
        (answering(b"SSH-2.0-OpenSSH\r\n\r\n"), Unavailable, "broke"),
        (answering(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000), Unavailable, "broke"),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf"), Unavailable, "broke"),
        (answering(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 65536] * 200), Unavailable, "larger than"),
        (answering(http(b"{}")), RemoteProtocolError, "no Health"),
        (answering(http(b"\xff\xfe")), RemoteProtocolError, "no Health"),
        (answering(http(b"[" * 100_000, "409 Conflict")), DecnetError, HOST),
        (answering(http(b"<html>", "500 Oops")), DecnetError, HOST),
    ],
)
async def test_what_is_no_answer_is_the_worker_s_error(
    pki: Pki, script: Script, error: type[DecnetError], words: str
) -> None:
    async with worker(pki, script) as asked:
        with pytest.raises(error, match=words) as refused:
            await ask(pki, asked)
    assert HOST in refused.value.message


async def test_one_that_says_nothing_is_given_up(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with worker(pki, silent) as asked:
        with pytest.raises(Unavailable, match="in time"):
            await ask(pki, asked, total_secs=0.3)
    monkeypatch.setattr(worker_calls, "CONNECT_SECS", 0.2)
    async with serving(silent, None) as asked:  # accepts, and does not even shake hands
        with pytest.raises(Unavailable, match="in time"):
            await ask(pki, asked)


async def test_nobody_there(pki: Pki) -> None:
    async with worker(pki, answering(b"")) as asked:
        pass
    with pytest.raises(Unavailable, match="cannot be reached"):
        await ask(pki, asked)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await ask(pki, Worker(HOST, "name.invalid", 1))


async def test_who_is_not_the_worker_s_agent_is_not_asked(pki: Pki) -> None:
    heard = asyncio.Event()

    async def listening(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):
            heard.set()

    for identity in (Identity(Role.UPDATER, HOST), Identity(Role.AGENT, "w2")):
        async with worker(pki, listening, identity) as asked:
            with pytest.raises(TrustError):
                await ask(pki, asked)
    async with worker(pki, listening) as asked:
        with pytest.raises(TrustError, match="not current"):
            await ask(pki, asked, current=False)
    assert not heard.is_set()
