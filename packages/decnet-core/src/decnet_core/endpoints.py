"""Addresses to listen on and to dial, and the one place that says clearly why a port cannot be had.

`Endpoint` is `host:port`, an IPv6 host in brackets. `listen` binds before a daemon starts anything else, so that a
port in use is one clear sentence and exit code 5, not a stack trace of a server library.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from decnet_core.errors import ConfigError, Conflict, Unavailable

BACKLOG = 2048
"""Pending connections: a thousand workers come back at once after an outage (the kernel caps it at somaxconn)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `host:port`.

        Raises:
            ConfigError: it is not that.
        """
        written, _, port = text.rpartition(":")
        host = written[1:-1] if written.startswith("[") and written.endswith("]") else written
        bracketed = host != written
        fits = len(port) <= 5 and port.isascii() and port.isdigit() and int(port) <= 0xFFFF
        if not fits or not host or (":" in host) != bracketed or not host.isprintable() or set(host) & set("[] /@"):
            raise ConfigError(f"{text[:80]!r} is not an address", "Write it as host:port, IPv6 as [address]:port.")
        return cls(host, int(port))


def listen(endpoint: Endpoint, setting: str) -> socket.socket:
    """Bind and listen, non-blocking.

    Args:
        endpoint: port 0 asks for any free one; read the chosen one from `getsockname()`.
        setting: the setting's name, for the advice.

    Raises:
        Conflict: another process has the port.
        Unavailable: the address is not this machine's, or the port needs a privilege.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as cause:  # UnicodeError: a name that cannot be a domain name's
        raise Unavailable(f"Cannot resolve {endpoint.host}", f"Correct the setting {setting}.") from cause
    try:
        server = socket.socket(family, kind, proto)
    except OSError as cause:
        raise Unavailable(
            f"This machine has no network for {endpoint}: {cause.strerror}", f"Correct the setting {setting}."
        ) from cause
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(address)
        server.listen(BACKLOG)
        server.setblocking(False)
    except OSError as cause:
        server.close()
        if cause.errno == errno.EADDRINUSE:
            raise Conflict(
                f"Another process listens on {endpoint}",
                f"Stop it (`ss -ltnp 'sport = :{endpoint.port}'` names it) or change the setting {setting}.",
            ) from cause
        raise Unavailable(
            f"Cannot listen on {endpoint}: {cause.strerror}", f"Correct the setting {setting}."
        ) from cause
    return server
