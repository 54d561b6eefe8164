"""Accept connections, and know them all: who is connected, how many there are, whether they still may be.

Invariants
- A peer is heard only after its certificate verified, names a logship, and its host is active in the store; the last
  is asked again for each stream, and every `muster_secs` of all live connections in one question, so that
  decommissioning ends them too.
- While the journal takes nothing, workers are told so and come again later: nothing is kept in memory for them.
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
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from decnet_core.errors import DecnetError, TrustError
from decnet_core.identity import MASTER, Role
from decnet_core.peer import peer_of
from decnet_core.shipping.control import ALPN, Reason, Refuse, encode_control
from decnet_core.tls_server import TlsServer
from decnet_master.listener.books import Books
from decnet_master.listener.committer import Committer
from decnet_master.listener.connection import Connection
from decnet_master.listener.ledger import Ledger
from decnet_master.listener.plain import PlainConnection
from decnet_master.listener.roll import Roll, caller

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of the listener.

    Attributes:
        connections: 45 KiB each when idle, so 8,192 are 360 MiB; a fleet has hundreds.
        connections_per_peer: one ships, some may linger half-open after network faults.
        handshakes: under way at a time; each is a millisecond of CPU and up to `handshake_secs` of waiting.
        handshake_secs: a handshake takes milliseconds, over a bad mobile link a second or two.
        muster_secs: how often the store is asked about the hosts of all live connections.
        tick_secs: how often time passes for a connection.
        stall_secs: a journal that takes nothing for so long is told to the senders; of a shorter pause they only notice
            that nothing is acknowledged.
        plain_message_bytes: the longest message of a plain RFC 5425 sender (its own default is 8 KiB).
    """

    connections: int = 8192
    connections_per_peer: int = 16
    handshakes: int = 256
    handshake_secs: float = 15.0
    plain_message_bytes: int = 64 << 10
    muster_secs: float = 2.0
    tick_secs: float = 1.0
    stall_secs: float = 3.0


class Server:
    """The listener's connections; `accept`, `watch`, `muster` and the committer's `run` are its tasks."""

    def __init__(self, committer: Committer, roll: Roll, ledger: Ledger, limits: ServerLimits | None = None) -> None:
        self._limits = limits or ServerLimits()
        self._books = Books(committer, roll, ledger, self._limits.stall_secs)
        self.committer = committer
        self.counts = self._books.counts
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

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def watch(self) -> None:
        """Let time pass for all connections, and tell those that can be told when the journal takes nothing."""
        while True:
            await asyncio.sleep(self._limits.tick_secs)
            now, is_stalled = time.monotonic(), self._books.is_stalled
            for connection in list(self._connections):
                if is_stalled and isinstance(connection, Connection):
                    connection.refuse(Reason.FULL)
                else:
                    connection.tick(now)

    async def muster(self) -> None:
        """End the connections of hosts that are not active any more; a database that is away ends nobody's."""
        while True:
            await asyncio.sleep(self._limits.muster_secs)
            present = [(caller(connection.peer), connection) for connection in self._connections]
            with contextlib.suppress(DecnetError, TimeoutError):
                active = await self._books.roll.all_active({who for who, _ in present}) if present else set()
                for who, connection in present:
                    if who not in active and connection in self._connections:
                        self._books.refused(
                            connection.peer, Reason.HOST, "its host is not active in the books any more"
                        )
                        connection.refuse(Reason.HOST)

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
        ends_at = _end_of(tls.getpeercert())
        connection: Connection | PlainConnection
        if tls.selected_alpn_protocol() == ALPN:
            connection = Connection(self._books, transport, peer, ends_at)
        else:
            connection = PlainConnection(self._books, transport, peer, ends_at, self._limits.plain_message_bytes)
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


def _end_of(certificate: Mapping[str, Any] | None) -> datetime | None:
    """Read when a verified certificate ends."""
    not_after = (certificate or {}).get("notAfter")
    return None if not_after is None else datetime.fromtimestamp(ssl.cert_time_to_seconds(not_after), UTC)


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
