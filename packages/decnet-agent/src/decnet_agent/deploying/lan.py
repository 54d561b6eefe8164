"""The worker's LAN as its deckies meet it: which addresses are theirs to take, and what others say of an address.

Pure: `network_facts` finds it out, `engine.probing` asks the LAN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network

MAX_CANDIDATES = 1 << 16
"""Addresses that are looked at for a shard of 1,000 deckies at most: a /16 whole, of a larger subnet a part."""

SMALLEST_PREFIX = 30
"""RFC 3021: a /31 has two ends and nothing else, and a /32 is one machine."""


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Addresses from the first to the last, both included."""

    first: IPv4Address
    last: IPv4Address

    @classmethod
    def parse(cls, text: str) -> AddressRange:
        """Read `10.0.0.7`, `10.0.0.0/28` or `10.0.0.100-10.0.0.200`.

        Raises:
            ValueError: it is none of them.
        """
        if "/" in text:
            network = IPv4Network(text)
            return cls(network[0], network[-1])
        first, dash, last = text.partition("-")
        found = cls(IPv4Address(first), IPv4Address(last if dash else first))
        if found.last < found.first:
            raise ValueError(f"{found.first} lies behind {found.last}")
        return found

    def __contains__(self, address: IPv4Address) -> bool:
        return self.first <= address <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What was heard of an address on the LAN.

    Attributes:
        address: whose it is about.
        mac: who was heard.
        has: whether that machine has it; False for one that asks for it, to take it if nobody answers.
    """

    address: IPv4Address
    mac: str
    has: bool = True


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """The worker's LAN: what deckies join, and what they must not take.

    Attributes:
        gateway: its router; None when none is known.
        ip_range: where addresses that nobody named are taken from; None is the whole subnet.
        own: this host's addresses.
        name_servers: those that this host asks.
        excluded: never a decky's, says the operator.
        neighbours: seen by this host's kernel some time ago; they may be gone, and are given last.
    """

    interface: str
    subnet: IPv4Network
    gateway: IPv4Address | None = None
    ip_range: IPv4Network | None = None
    own: frozenset[IPv4Address] = frozenset()
    name_servers: frozenset[IPv4Address] = frozenset()
    excluded: tuple[AddressRange, ...] = ()
    neighbours: frozenset[IPv4Address] = frozenset()

    def usable(self, address: IPv4Address) -> bool:
        """Tell whether a decky may have the address, as far as is known here."""
        return self.why_not(address) is None

    def why_not(self, address: IPv4Address) -> str | None:
        """Say why a decky may not have an address; None if it may."""
        if address not in self.subnet:
            return f"it lies outside {self.subnet}"
        reasons = {
            "its subnet has no room for a decky": self.subnet.prefixlen > SMALLEST_PREFIX,
            "it is the network's own": address in (self.subnet.network_address, self.subnet.broadcast_address),
            "it is the router's": address == self.router,
            "it is this worker's own": address in self.own,
            "it is a name server's": address in self.name_servers,
            "this worker's settings exclude it": any(address in excluded for excluded in self.excluded),
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    @property
    def router(self) -> IPv4Address | None:
        """The address that Docker gives to the router of the network, whether there is one or not."""
        if self.gateway is not None or self.subnet.prefixlen > SMALLEST_PREFIX:
            return self.gateway
        return self.subnet[1]

    def candidates(self, seed: bytes) -> Iterator[IPv4Address]:
        """Every address that a decky without one may get, `MAX_CANDIDATES` at most, those of neighbours last.

        They begin anywhere and go on in strides, as the worker's secret says: two workers on one LAN rarely choose the
        same, and when they did go on to different ones.
        """
        pool = self.ip_range or self.subnet
        size = pool.num_addresses
        drawn = blake2b(b"addresses", key=seed, digest_size=16).digest()
        start = int.from_bytes(drawn[:8]) % size
        stride = int.from_bytes(drawn[8:]) % size | 1  # odd: the size is a power of two, so each is met once
        last: list[IPv4Address] = []
        for number in range(min(size, MAX_CANDIDATES)):
            address = pool[(start + number * stride) % size]
            if not self.usable(address):
                continue
            if address in self.neighbours:
                last.append(address)
            else:
                yield address
        yield from last
