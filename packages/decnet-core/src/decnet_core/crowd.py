"""Bound a server's connections so that no address keeps the others out.

Beyond the bound a new connection is not turned away: the oldest one of the address that has the most is ended instead.
Whoever holds places, silently, or with one byte now and then, or with half a request, loses them again to whoever comes
with business, which takes milliseconds. To be in the way of others, somebody would have to finish as many handshakes as
there are places while one of theirs is served, from as many addresses as he can get hold of.

The addresses of one IPv6 network of 64 bits count as one: a host there takes as many as it likes (RFC 4291 §2.5.1).

What it does not do: tell good from bad. Peers behind one address share its fate when that is the fullest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

_NETWORK_BYTES = 8


class Crowd:
    """The connections of one server, in the order in which they came.

    Args:
        protocol: makes the protocol of a connection.
        max_connections: how many may be.
        ended: called for each connection that had to go.
    """

    def __init__(
        self, protocol: Callable[[], asyncio.Protocol], max_connections: int, ended: Callable[[], None]
    ) -> None:
        self._protocol, self._max_connections, self._ended = protocol, max_connections, ended
        self._members: dict[str, dict[_Member, None]] = {}  # by network, oldest first
        self._count = 0

    def enter(self) -> asyncio.Protocol:
        """Make the protocol of a connection; it belongs to the crowd from its making to its loss."""
        return _Member(self, self._protocol())

    def add(self, member: _Member) -> None:
        """Take a connection in, and end another if that is one too many."""
        self._members.setdefault(member.network, {})[member] = None
        self._count += 1
        if self._count > self._max_connections:
            fullest = max(self._members.values(), key=len)  # of equally full ones the one that is here longest
            oldest = next(iter(fullest))
            oldest.end()
            self._ended()

    def remove(self, member: _Member) -> None:
        """Let a connection go that has ended, or is about to."""
        members = self._members.get(member.network, {})
        if member in members:
            self._count -= 1
            del members[member]
            if not members:
                del self._members[member.network]


class _Member(asyncio.Protocol):
    """Stands between a transport and its protocol, to hear when the connection begins and ends."""

    def __init__(self, crowd: Crowd, inner: asyncio.Protocol) -> None:
        self._crowd, self._inner = crowd, inner
        self._transport: asyncio.Transport | None = None
        self._is_over = False
        self.network = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 -- what asyncio promises for a stream socket
        self._transport = transport
        self.network = _network_of(transport)
        self._crowd.add(self)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self._is_over:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._is_over else self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._crowd.remove(self)
            self._inner.connection_lost(exc)

    def end(self) -> None:
        """End the connection without a goodbye, which who holds a place for nothing would not answer.

        Its protocol hears of it now, not when asyncio gets to it: the place is free for whoever took it.
        """
        assert self._transport is not None  # noqa: S101 -- it was made before it was taken in
        self._transport.abort()
        self.connection_lost(None)


def _network_of(transport: asyncio.BaseTransport) -> str:
    """Tell whom a connection counts for: an IPv4 address, or an IPv6 network of 64 bits."""
    name = transport.get_extra_info("peername")
    text = str(name[0]) if isinstance(name, tuple) and name else ""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return text
    if not isinstance(address, IPv6Address):
        return text
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(address.packed[:_NETWORK_BYTES].ljust(16, b"\0")))
