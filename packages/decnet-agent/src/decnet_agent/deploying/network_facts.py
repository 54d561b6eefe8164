"""Read from this host's kernel what `detecting` makes the deckies' LAN out of.

Text files of the kernel alone: no socket, no privilege. Nothing in them was said by somebody on the LAN but the
addresses of neighbours, which the kernel has parsed.

Source: proc(5); /proc/net/fib_trie lists every local IPv4 address, whichever interface it is on. /proc/net/route has
numbers as they lie in memory. resolv.conf(5); systemd-resolved(8) keeps the servers that it asks itself in a file of
its own.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv4Network
from itertools import pairwise
from pathlib import Path
from sys import byteorder

from decnet_agent.deploying.detecting import Kernel, KnownLan, Route, Wishes, detect
from decnet_agent.deploying.lan import NetworkFacts
from decnet_agent.deploying.state import AgentState
from decnet_agent.settings import AgentSettings

_ETHERNET = "1"
"""ARPHRD_ETHER of linux/if_arp.h."""

_UP, _REJECT = 0x1, 0x200
"""RTF_UP and RTF_REJECT of linux/route.h."""

_COMPLETE = 0x2
"""ATF_COM of linux/if_arp.h: the neighbour answered."""

_GLOBAL = "00"
"""IPV6_ADDR_ANY of net/ipv6.h: an address of no narrower scope."""


def network_facts(settings: AgentSettings, state: AgentState | None = None, root: Path = Path("/")) -> NetworkFacts:
    """Put the facts together.

    Args:
        settings: what the operator says goes first.
        state: what the agent remembers; its LAN counts while deckies have addresses there.
        root: where `proc`, `sys`, `etc` and `run` lie.

    Raises:
        ConfigError: the LAN cannot be told.
    """
    wishes = Wishes(
        settings.interface, settings.subnet, settings.gateway, settings.ip_range, settings.excluded_addresses
    )
    known = None
    if state is not None and state.lan is not None and state.assignments:
        known = KnownLan(state.lan.interface, state.lan.subnet, state.lan.gateway)
    return detect(read_kernel(root), wishes, known)


def read_kernel(root: Path = Path("/")) -> Kernel:
    """Read the kernel's tables; one that is not there is empty."""
    interfaces = root / "sys/class/net"
    return Kernel(
        interfaces={
            path.name: "".join(_lines(path / "type")).strip() == _ETHERNET for path in sorted(interfaces.glob("*"))
        },
        routes=tuple(_routes(root / "proc/net/route")),
        own=_own_addresses(root / "proc/net/fib_trie"),
        name_servers=_name_servers(root / "etc/resolv.conf") | _name_servers(root / "run/systemd/resolve/resolv.conf"),
        ipv6=frozenset(
            fields[5]
            for fields in map(str.split, _lines(root / "proc/net/if_inet6"))
            if len(fields) == 6 and fields[3] == _GLOBAL
        ),
        neighbours=_neighbours(root / "proc/net/arp"),
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _routes(path: Path) -> list[Route]:
    routes: list[Route] = []
    for line in _lines(path)[1:]:
        interface, destination, gateway, flags, _, _, metric, mask, *_ = line.split()
        if int(flags, 16) & (_UP | _REJECT) == _UP:
            router = _address(gateway)
            network = IPv4Network(f"{_address(destination)}/{_address(mask)}", strict=False)
            routes.append(Route(interface, network, router if int(router) else None, int(metric)))
    return routes


def _address(text: str) -> IPv4Address:
    return IPv4Address(int(text, 16).to_bytes(4, byteorder))


def _own_addresses(path: Path) -> frozenset[IPv4Address]:
    found: set[IPv4Address] = set()
    for address, kind in pairwise(_lines(path)):
        if "host LOCAL" in kind:
            try:
                found.add(IPv4Address(address.rpartition("|-- ")[2].strip()))
            except AddressValueError:
                continue
    return frozenset(found)


def _name_servers(path: Path) -> frozenset[IPv4Address]:
    found: set[IPv4Address] = set()
    for word, value, *_ in (line.split() for line in _lines(path) if len(line.split()) > 1):
        if word == "nameserver":
            try:
                found.add(IPv4Address(value))
            except AddressValueError:  # an IPv6 server is in no decky's way
                continue
    return frozenset(found)


def _neighbours(path: Path) -> dict[str, frozenset[IPv4Address]]:
    found: dict[str, set[IPv4Address]] = {}
    for line in _lines(path)[1:]:
        address, _, flags, _, _, interface = line.split()
        if int(flags, 16) & _COMPLETE:
            found.setdefault(interface, set()).add(IPv4Address(address))
    return {interface: frozenset(addresses) for interface, addresses in found.items()}
