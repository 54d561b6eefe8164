"""Make out which LAN the deckies of this worker join: what the settings say, else what the kernel's routes tell.

Pure: `network_facts` reads the kernel's tables.

- The interface is the one of the default route (the lowest metric; only Ethernet, for macvlan needs a parent that is),
  or the one that has the configured subnet.
- The subnet is the one that is directly on that interface; of several the one that has the default route's router.
- What was once made out stays while deckies live by it and nothing contradicts it: a default route that comes and goes
  with a VPN, or an address that a DHCP server is late with, moves no decky. An interface that has another subnet now
  does, for the worker was moved; one that is gone does not, for nobody said where to.

IPv4 only: a decky needs a router, and its address is told by ARP. An interface with IPv6 alone is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from decnet_agent.deploying.lan import SMALLEST_PREFIX, AddressRange, NetworkFacts
from decnet_core.errors import ConfigError

_SET = "Set interface and subnet in decnet.ini to the LAN that the deckies shall join."


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the kernel's IPv4 routes; `gateway` is None where the destination is directly on the interface."""

    interface: str
    destination: IPv4Network
    gateway: IPv4Address | None = None
    metric: int = 0


@dataclass(frozen=True, slots=True)
class Kernel:
    """What this host's kernel knows of its networks.

    Attributes:
        interfaces: all of them, and whether each is Ethernet.
        ipv6: interfaces with a global IPv6 address.
        neighbours: addresses that answered it some time ago, by interface.
    """

    interfaces: Mapping[str, bool]
    routes: tuple[Route, ...] = ()
    own: frozenset[IPv4Address] = frozenset()
    name_servers: frozenset[IPv4Address] = frozenset()
    ipv6: frozenset[str] = frozenset()
    neighbours: Mapping[str, frozenset[IPv4Address]] = field(default_factory=dict)

    def subnets(self, interface: str) -> list[IPv4Network]:
        """List the subnets directly on an interface, in the order of its routes; not the one of hosts without a LAN."""
        found = (route.destination for route in self.routes if route.interface == interface and not route.gateway)
        return list(dict.fromkeys(net for net in found if net.prefixlen not in (0, 32) and not net.is_link_local))

    def default_routes(self, interface: str | None = None) -> list[Route]:
        """List the default routes that have a router, best first."""
        found = [route for route in self.routes if route.destination.prefixlen == 0 and route.gateway is not None]
        return sorted((r for r in found if interface in (None, r.interface)), key=lambda route: route.metric)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings say; None is for us to find out."""

    interface: str | None = None
    subnet: IPv4Network | None = None
    gateway: IPv4Address | None = None
    ip_range: IPv4Network | None = None
    excluded: tuple[AddressRange, ...] = ()


@dataclass(frozen=True, slots=True)
class KnownLan:
    """The LAN that was made out before, by which deckies live."""

    interface: str
    subnet: IPv4Network
    gateway: IPv4Address | None = None


def detect(kernel: Kernel, wishes: Wishes, known: KnownLan | None = None) -> NetworkFacts:
    """Make out the LAN.

    Raises:
        ConfigError: it cannot be told, or what the settings say does not fit.
    """
    interface = _interface(kernel, wishes, known)
    subnet = _subnet(kernel, wishes, known, interface)
    if subnet.prefixlen > SMALLEST_PREFIX:
        raise ConfigError(
            f"{subnet} on {interface} has no room for a decky", "Set subnet to a LAN of a /30 at least, or interface."
        )
    gateway = wishes.gateway or next(
        (route.gateway for route in kernel.default_routes(interface) if route.gateway in subnet),
        known.gateway if known is not None and (known.interface, known.subnet) == (interface, subnet) else None,
    )
    for name, inside in (("ip-range", wishes.ip_range), ("gateway", gateway)):
        lies_in = inside is None or (inside in subnet if isinstance(inside, IPv4Address) else inside.subnet_of(subnet))
        if not lies_in:
            raise ConfigError(f"{name} {inside} does not lie in {subnet}, the LAN of {interface}", f"Correct {name}.")
    return NetworkFacts(
        interface,
        subnet,
        gateway,
        wishes.ip_range,
        kernel.own,
        kernel.name_servers,
        wishes.excluded,
        kernel.neighbours.get(interface, frozenset()),
    )


def _interface(kernel: Kernel, wishes: Wishes, known: KnownLan | None) -> str:
    if wishes.interface is not None:
        if wishes.interface not in kernel.interfaces:
            raise ConfigError(
                f"This host has no interface {wishes.interface}", "Set interface to one that `ip link` lists."
            )
        return wishes.interface
    ethernet = [name for name, is_ethernet in kernel.interfaces.items() if is_ethernet]
    if wishes.subnet is not None:
        on_it = [name for name in ethernet if wishes.subnet in kernel.subnets(name)]
        if on_it:
            return on_it[0]
    if known is not None and (wishes.subnet or known.subnet) == known.subnet:
        if known.interface not in kernel.interfaces:
            raise ConfigError(
                f"{known.interface}, on which the deckies live, is gone", f"Bring it back. To move them: {_SET}"
            )
        if known.subnet in kernel.subnets(known.interface) or not kernel.subnets(known.interface):
            return known.interface
    default = next((route.interface for route in kernel.default_routes() if route.interface in ethernet), None)
    if default is None:
        raise ConfigError("This host has no default route over Ethernet that tells the deckies' LAN", _SET)
    return default


def _subnet(kernel: Kernel, wishes: Wishes, known: KnownLan | None, interface: str) -> IPv4Network:
    if wishes.subnet is not None:
        return wishes.subnet
    there = kernel.subnets(interface)
    if known is not None and known.interface == interface and (known.subnet in there or not there):
        return known.subnet
    if not there and interface in kernel.ipv6:
        raise ConfigError(
            f"{interface} has IPv6 addresses only, and deckies need IPv4",
            "Set subnet to the IPv4 subnet of that LAN, or interface to another one.",
        )
    if not there:
        raise ConfigError(f"{interface} has no IPv4 address that tells its LAN", _SET)
    routers = {route.gateway for route in kernel.default_routes(interface)}
    with_router = [subnet for subnet in there if any(router in subnet for router in routers if router is not None)]
    best = with_router or there
    if len(best) > 1:
        raise ConfigError(f"{interface} has several subnets: {', '.join(map(str, best))}", "Set subnet to one of them.")
    return best[0]
