"""Serve the agent's application over mutual TLS on a socket that is already bound, inside a daemon's task.

uvicorn does the HTTP. What is changed: signals belong to `decnet_core.daemon`, cancelling `serve` is how it ends; the
peer's identity is bound to each connection; nothing wakes up ten times a second; a handshake and the head of a request
have deadlines.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Generator
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from decnet_core.errors import TrustError
from decnet_core.peer import ASGIApp, admit
from decnet_core.tls_server import TlsServer

HANDSHAKE_SECS = 10.0
HEAD_SECS = 10.0
"""From a connection's start, or a later request's first byte, to the head's end: who sends a byte a minute is cut."""

KEEP_ALIVE_SECS = 15
STOP_SECS = 3
MAX_CONNECTIONS = 64
"""One master calls one agent, one request at a time; beyond are strangers."""

log = structlog.get_logger()


async def serve(app: ASGIApp, server: socket.socket, tls: ssl.SSLContext, up: Callable[[], None]) -> None:
    """Serve until cancelled; `up` is called once connections are accepted."""
    config = uvicorn.Config(
        app,
        http=_PeerProtocol,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECS,
        timeout_graceful_shutdown=STOP_SECS,
        h11_max_incomplete_event_size=16 * 1024,
    )
    running = _Server(config, tls, up)
    task = asyncio.create_task(running.serve([server]), name="uvicorn")
    try:
        await asyncio.shield(task)
    finally:
        running.stop.set()
        await asyncio.wait([task], timeout=STOP_SECS + 1)
        task.cancel()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext, up: Callable[[], None]) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()
        self._tls = tls
        self._up = up

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        self.servers = []
        for bound in sockets or ():
            doors = TlsServer(bound, self._tls, self._connection, handshake_secs=HANDSHAKE_SECS)
            self.servers.append(doors)  # type: ignore[arg-type]  # it ends like an asyncio.Server
        self.started = True
        self._up()

    async def main_loop(self) -> None:
        await self.stop.wait()

    def _connection(self) -> asyncio.Protocol:
        return _PeerProtocol(self.config, self.server_state, self.lifespan.state)


class _PeerProtocol(H11Protocol):
    """Binds the peer to the connection, and cuts one whose request, be it a later one, does not begin in time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self.app = admit(self.app, transport, _on_refused)
        self._head_timer = self.loop.call_later(HEAD_SECS, transport.abort)

    def data_received(self, data: bytes) -> None:
        heads = self.headers
        if self._head_timer is None and getattr(self.cycle, "response_complete", False):
            self._head_timer = self.loop.call_later(HEAD_SECS, self.transport.abort)
        super().data_received(data)
        if self.headers is not heads and self._head_timer is not None:  # a head came whole
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)


def _on_refused(error: TrustError, address: str) -> None:
    log.warning("call.refused", address=address, reason=error.message)
