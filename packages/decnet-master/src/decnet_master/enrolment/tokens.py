"""Make join tokens: 256 random bits, of which the master keeps only the SHA-256.

A slow hash would add nothing: there is no dictionary for 256 random bits.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from ipaddress import ip_address

import structlog

from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import JoinToken
from decnet_core.errors import ConfigError, Conflict
from decnet_core.identity import MAX_HOST_LENGTH, RESERVED_HOSTS
from decnet_master.store import Store

log = structlog.get_logger()

_WILDCARDS = frozenset({"0.0.0.0", "::"})

# TEST-NET-1 (RFC 5737): it is routed like any address abroad, and connecting a datagram socket sends nothing.
_FAR_AWAY = ("192.0.2.1", 9)


class TokenMint:
    """Makes tokens; the pin and the address are asked for at each, because both can change while the master runs."""

    def __init__(self, store: Store, pin: Callable[[], str], address: Callable[[], Endpoint]) -> None:
        self._store = store
        self._pin = pin
        self._address = address

    async def issue(
        self, name: str, lifetime: timedelta, now: datetime, labels: Mapping[str, str] | None = None
    ) -> JoinToken:
        """Enrol a worker's name, with labels, and return its token.

        Raises:
            Conflict: the name is taken, stands for the master, or does not fit a certificate.
            ConfigError: no address is known under which workers reach this master.
        """
        if name in RESERVED_HOSTS:
            raise Conflict(f"{name} is a reserved name", "Choose the worker's own host name.")
        if len(name) > MAX_HOST_LENGTH:
            raise Conflict(f"{name} is longer than {MAX_HOST_LENGTH} characters", "Choose a shorter name.")
        token = JoinToken(
            address=str(self._address()),
            pin=self._pin(),
            id=secrets.token_hex(8),
            secret=secrets.token_urlsafe(32),
            host=name,
            expires_at=(now + lifetime).replace(microsecond=0),
        )
        await self._store.hosts.create(name, token.id, hash_secret(token.secret), token.expires_at, now, labels=labels)
        log.info("token.issued", host=name, token_id=token.id, expires_at=token.expires_at.isoformat())
        return token


def hash_secret(secret: str) -> str:
    """Return what the store keeps of a token's secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def public_endpoint(public_address: str | None, bound: Endpoint) -> Endpoint:
    """Tell where workers reach the enrolment endpoint.

    Args:
        public_address: the setting, `host` or `host:port`.
        bound: where it listens; a wildcard stands for the address that this machine uses toward others.

    Raises:
        ConfigError: it listens on a wildcard, and this machine has no way to others that would tell its address.
    """
    if public_address:
        has_port = public_address.count(":") == 1 or "]:" in public_address
        if has_port:
            return Endpoint.parse(public_address)
        return Endpoint(public_address.removeprefix("[").removesuffix("]"), bound.port)
    if bound.host not in _WILDCARDS:
        return bound
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_FAR_AWAY)
            host = str(probe.getsockname()[0])
        except OSError as cause:  # no route at all: a machine by itself
            raise _no_address() from cause
    if ip_address(host).is_loopback:
        raise _no_address()
    return Endpoint(host, bound.port)


def _no_address() -> ConfigError:
    return ConfigError(
        "This machine has no route to others, so a token cannot name an address that a worker reaches it at",
        "Set public-address to the name or address under which workers reach the master (127.0.0.1 for this machine).",
    )
