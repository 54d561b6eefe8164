"""Run an ASGI application on a socket that is already bound, inside somebody else's TaskGroup.

uvicorn does the HTTP. Changed here, because a daemon of ours owns it:
- signals belong to `decnet_core.daemon.run`; cancelling `serve` is how a server ends;
- the TLS handshake and a request's head have deadlines: uvicorn times only the pause between two requests, so a
  client that sends one byte a minute would hold a connection for ever;
- nothing wakes up ten times a second: the guard writes the date;
- the application knows the peer of a connection that brought a certificate (`decnet_core.peer`);
- no access log, no server header, no forwarded headers, no websockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from decnet_core.daemon import Ready
from decnet_core.errors import TrustError
from decnet_core.peer import admit
from decnet_core.tls_server import TlsServer

HANDSHAKE_SECS = 10.0
"""A handshake takes milliseconds; over a bad mobile link a second or two."""

HEAD_SECS = 10.0
"""From a connection's start, or a request's first byte, to the end of its head."""

KEEP_ALIVE_SECS = 15
STOP_SECS = 3
"""How long answers under way may take to end when the server stops; inside the supervisor's ten."""

_CONNECTION = "decnet.connection"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one server.

    Attributes:
        connections: those beyond are answered 503. Over TLS it is not the newest that has to go, but the oldest of the
            address that has the most: strangers who hold theirs keep nobody out.
        connection_secs: the whole life of a connection; None where streams live for hours.
    """

    connections: int = 256
    connection_secs: float | None = None


class Guests(Protocol):
    """Hears who comes and goes, to be able to cut them off; a request's `connection_of` tells on which it came."""

    def enter(self, transport: asyncio.Transport) -> None:
        """Note a connection, its handshake over."""

    def leave(self, transport: asyncio.Transport) -> None:
        """Forget a connection, noted or not."""


async def serve(
    app: ASGIApp,
    server: socket.socket,
    *,
    ready: Ready,
    tls: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    guests: Guests | None = None,
) -> None:
    """Serve until cancelled; the socket is closed at the end.

    Args:
        app: an ASGI application without lifespan events.
        server: bound and listening, from `decnet_core.endpoints.listen`.
        ready: told once connections are accepted.
        tls: the context to serve with; None is plain HTTP.
        limits: bounds; None is the defaults.
        guests: hears of each connection.
    """
    limits = limits or Limits()
    config = uvicorn.Config(
        app,
        http=_protocol(limits, guests),
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=KEEP_ALIVE_SECS,
        timeout_graceful_shutdown=STOP_SECS,
        h11_max_incomplete_event_size=16 * 1024,  # a head with a token is under 2 KiB
    )
    running = _Server(config, limits, tls, ready)
    task = asyncio.create_task(running.serve([server]), name="uvicorn")
    try:
        await asyncio.shield(task)
    finally:
        running.stop.set()
        await asyncio.wait([task], timeout=STOP_SECS + 1)
        task.cancel()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, limits: Limits, tls: ssl.SSLContext | None, ready: Ready) -> None:
        super().__init__(config)
        self._max_connections = limits.connections - 1  # with one more, uvicorn answers 503
        self.stop = asyncio.Event()
        self._tls = tls
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        self.servers = []
        for bound in sockets or ():
            if self._tls is None:
                self.servers.append(await loop.create_server(self._connection, sock=bound, backlog=self.config.backlog))
            else:
                doors = TlsServer(
                    bound,
                    self._tls,
                    self._connection,
                    handshake_secs=HANDSHAKE_SECS,
                    max_connections=self._max_connections,
                )
                self.servers.append(doors)  # type: ignore[arg-type]  # it ends like an asyncio.Server
        self.started = True
        self._ready.one_more()

    async def main_loop(self) -> None:
        await self.stop.wait()

    def _connection(self) -> asyncio.Protocol:
        protocol: type[H11Protocol] = self.config.http_protocol_class  # type: ignore[assignment]  # given below
        return protocol(self.config, self.server_state, self.lifespan.state)


class _Timed(H11Protocol):
    """Cuts a connection whose request head does not end, and, where so bounded, one that lives too long."""

    connection_secs: float | None = None
    guests: Guests | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._life_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self.app = admit(self.app, transport, _on_refused)
        if self.guests is not None:
            self.app = _bind_connection(self.app, transport)
            self.guests.enter(transport)
        self._head_timer = self.loop.call_later(HEAD_SECS, transport.abort)
        if self.connection_secs is not None:
            self._life_timer = self.loop.call_later(self.connection_secs, transport.abort)

    def data_received(self, data: bytes) -> None:
        heads = self.headers
        if self._head_timer is None and getattr(self.cycle, "response_complete", False):
            self._head_timer = self.loop.call_later(HEAD_SECS, self.transport.abort)
        super().data_received(data)
        if self.headers is not heads and self._head_timer is not None:  # a new head came whole
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._life_timer):
            if timer is not None:
                timer.cancel()
        if self.guests is not None:
            self.guests.leave(self.transport)
        super().connection_lost(exc)


def connection_of(scope: Scope) -> asyncio.Transport | None:
    """Return the connection of a request, where the server has guests."""
    connection = (scope.get("extensions") or {}).get(_CONNECTION)
    return connection if isinstance(connection, asyncio.Transport) else None


def _bind_connection(app: ASGIApp, transport: asyncio.Transport) -> ASGIApp:
    async def bound(scope: Scope, receive: Receive, send: Send) -> None:
        extensions = {**(scope.get("extensions") or {}), _CONNECTION: transport}
        await app({**scope, "extensions": extensions}, receive, send)

    return bound


def _protocol(limits: Limits, guests: Guests | None) -> type[H11Protocol]:
    return type("Timed", (_Timed,), {"connection_secs": limits.connection_secs, "guests": guests})


def _on_refused(error: TrustError, address: str) -> None:
    log.warning("peer.refused", address=address, reason=error.message)
