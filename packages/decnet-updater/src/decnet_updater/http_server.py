"""Serve an application over mutual TLS on a bound socket, inside the daemon's TaskGroup.

uvicorn speaks the HTTP. Changed here:
- signals belong to `decnet_core.daemon.run`; cancelling `serve` is how the server ends;
- a handshake and a connection have deadlines, since uvicorn times only the pause between two requests;
- each connection's application knows its peer, and a certificate that names no identity of ours gets none;
- nothing wakes up ten times a second for a date header that nobody reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from decnet_core.daemon import Ready
from decnet_core.errors import TrustError
from decnet_core.peer import ASGIApp, admit
from decnet_core.tls_server import TlsServer

HANDSHAKE_SECS = 10.0
"""A handshake takes milliseconds; over a bad mobile link a second or two."""

CONNECTION_SECS = 60.0
"""The whole life of a connection: the master asks one question at a time and can connect again."""

MAX_CONNECTIONS = 32
"""There is one master; those beyond are answered 503."""

MAX_HEAD_BYTES = 8 * 1024
KEEP_ALIVE_SECS = 15
STOP_SECS = 3
"""How long answers under way may take to end; inside the ten seconds that a supervisor waits."""

log = structlog.get_logger()


async def serve(app: ASGIApp, server: socket.socket, context: ssl.SSLContext, ready: Ready) -> None:
    """Serve until cancelled; the socket is closed at the end.

    Args:
        app: an ASGI application without lifespan events; each request's scope holds its `decnet_core.peer.Peer`.
        server: bound and listening, from `decnet_core.endpoints.listen`.
        context: one that demands a certificate of the private CA.
        ready: told once connections are accepted.
    """
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
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    running = _Server(config, context, ready)
    task = asyncio.create_task(running.serve([server]), name="uvicorn")
    try:
        await asyncio.shield(task)
    finally:
        running.stop.set()
        await asyncio.wait([task], timeout=STOP_SECS + 1)
        task.cancel()


class _PeerProtocol(H11Protocol):
    """One connection: bound to its peer, cut when it lives too long."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._life: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self.app = admit(self.app, transport, _on_refused)
        self._life = self.loop.call_later(CONNECTION_SECS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._life is not None:
            self._life.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, its clock and its start-up messages."""

    def __init__(self, config: uvicorn.Config, context: ssl.SSLContext, ready: Ready) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()
        self._context = context
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        self.servers = []
        for bound in sockets or ():
            doors = TlsServer(bound, self._context, self._connection, handshake_secs=HANDSHAKE_SECS)
            self.servers.append(doors)  # type: ignore[arg-type]  # it ends like an asyncio.Server
        self.started = True
        self._ready.one_more()

    async def main_loop(self) -> None:
        await self.stop.wait()

    def _connection(self) -> asyncio.Protocol:
        return _PeerProtocol(self.config, self.server_state, self.lifespan.state)


def _on_refused(error: TrustError, address: str) -> None:
    log.warning("peer.refused", address=address, reason=error.message)
