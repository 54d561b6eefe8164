"""Accept connections, and know them all: who is connected, how many there are, whether they still may be.

Invariants
- A peer is heard only after its certificate verified, names a logship, and its host is active in the store; the last
  is asked again for each stream and every `recheck_secs`, so that decommissioning ends live connections too.
- Of one (identity, stream) the newest connection ships; the older one is shut out at once, and the newer one learns
  its offset only after the older one's blocks are decided.
- Handshakes under way, connections, connections of one peer and blocks in memory are bounded. Beyond the handshakes'
  bound the oldest is ended, so that silent strangers keep nobody out; beyond the others' new ones are refused.
- Whatever a peer does ends at most its own connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import Counter
from dataclasses import dataclass

import structlog

from decnet_core.errors import DecnetError, TrustError
from decnet_core.identity import MASTER, Role
from decnet_core.peer import peer_of
from decnet_core.shipping.control import ALPN, Reason, Refuse, encode_control
from decnet_core.tls_server import TlsServer
from decnet_master.listener.books import Books, IsActive
from decnet_master.listener.committer import Committer
from decnet_master.listener.connection import Connection
from decnet_master.listener.plain import PlainConnection

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of the listener.

    Attributes:
        connections: 104 KiB each when idle, so 8,192 are 850 MiB; a fleet has hundreds.
        connections_per_peer: one ships, some may linger half-open after network faults.
        handshakes: under way at a time; each is a millisecond of CPU and up to `handshake_secs` of waiting.
        handshake_secs: a handshake takes milliseconds, over a bad mobile link a second or two.
        recheck_secs: how often the store is asked again about the hosts of live connections.
        tick_secs: how often time passes for a connection.
        plain_message_bytes: the longest message of a plain RFC 5425 sender (its own default is 8 KiB).
    """

    connections: int = 8192
    connections_per_peer: int = 16
    handshakes: int = 256
    handshake_secs: float = 15.0
    plain_message_bytes: int = 64 << 10
    recheck_secs: float = 30.0
    tick_secs: float = 1.0


class Server:
    """The listener's connections; `accept`, `watch` and the committer's `run` are its tasks."""

    def __init__(self, committer: Committer, is_active: IsActive, limits: ServerLimits | None = None) -> None:
        self._books = Books(committer, is_active)
        self.committer = committer
        self.counts = self._books.counts
        self._limits = limits or ServerLimits()
        self._connections: set[Connection | PlainConnection] = set()
        self._per_peer: Counter[str] = Counter()
        self._refused_logged_at = 0.0
        self._refused_unlogged = 0
        committer.on_room = self._room

    async def accept(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """Accept for ever on a socket that listens."""
        doors = TlsServer(
            sock,
            context,
            lambda: _Protocol(self),
            handshake_secs=self._limits.handshake_secs,
            max_handshakes=self._limits.handshakes,
            refused=self._handshake_refused,
        )
        try:
            await doors.serve_forever()
        finally:
            doors.close()
            await doors.wait_closed()

    async def watch(self) -> None:
        """Let time pass for all connections, and look again whether their hosts are active."""
        checked_at = time.monotonic()
        while True:
            await asyncio.sleep(self._limits.tick_secs)
            now = time.monotonic()
            for connection in list(self._connections):
                connection.tick(now)
            if now - checked_at >= self._limits.recheck_secs:
                checked_at = now
                for connection in list(self._connections):
                    await self._recheck(connection)

    def close(self) -> None:
        """Abort all connections."""
        for protocol in list(self._connections):
            protocol.refuse(Reason.BUSY)

    def connected(self, transport: asyncio.Transport) -> Connection | PlainConnection | None:
        """Begin with a peer whose handshake is over; None when it was refused."""
        try:
            peer = peer_of(transport)
        except TrustError as error:
            self._handshake_refused(str(transport.get_extra_info("peername")), error.message)
            transport.abort()
            return None
        assert peer is not None  # noqa: S101 -- the context demands a certificate
        if peer.identity == MASTER:  # `decnet-master status` looks whether we are here
            transport.write(encode_control(Refuse(Reason.ROLE)))
            transport.close()
            return None
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tls = transport.get_extra_info("ssl_object")
        connection: Connection | PlainConnection
        if tls.selected_alpn_protocol() == ALPN:
            connection = Connection(self._books, transport, peer)
        else:
            connection = PlainConnection(self._books, transport, peer, self._limits.plain_message_bytes)
        name = str(peer.identity)
        self._connections.add(connection)
        self._per_peer[name] += 1
        self.counts.accepted += 1
        if peer.identity.role is not Role.LOGSHIP:
            self._books.refused(peer, Reason.ROLE, "only a logship ships logs")
            connection.refuse(Reason.ROLE)
        elif (
            len(self._connections) > self._limits.connections
            or self._per_peer[name] > self._limits.connections_per_peer
        ):
            self._books.refused(peer, Reason.BUSY, "there are too many connections")
            connection.refuse(Reason.BUSY)
        return connection

    def disconnected(self, connection: Connection | PlainConnection) -> None:
        """Forget a connection that ended."""
        self._connections.discard(connection)
        name = str(connection.peer.identity)
        self._per_peer[name] -= 1
        if not self._per_peer[name]:
            del self._per_peer[name]
        connection.lost()
        log.info("sender.disconnected", identity=name, address=connection.peer.address)

    async def _recheck(self, connection: Connection | PlainConnection) -> None:
        """End the connection of a host that is not active any more; a database that is away ends nobody's."""
        peer = connection.peer
        with contextlib.suppress(DecnetError, TimeoutError):
            if not await self._books.is_active(peer):
                self._books.refused(peer, Reason.HOST, "its host is not active in the books any more")
                connection.refuse(Reason.HOST)

    def _room(self) -> None:
        for connection in list(self._connections):
            if connection.paused:
                connection.room()

    def _handshake_refused(self, address: str, why: str) -> None:
        """Count it, and log one a second at most: anyone can make these."""
        self.counts.handshakes_refused += 1
        self._refused_unlogged += 1
        now = time.monotonic()
        if now - self._refused_logged_at >= 1.0:
            log.warning("handshake.refused", count=self._refused_unlogged, address=address, reason=why)
            self._refused_logged_at = now
            self._refused_unlogged = 0


class _Protocol(asyncio.Protocol):
    """Hands a transport's events to the connection that the server made for it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: Connection | PlainConnection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- what asyncio promises for a stream socket
        self._connection = self._server.connected(transport)

    def data_received(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.data_received(data)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        if self._connection is not None:
            self._server.disconnected(self._connection)
            self._connection = None
