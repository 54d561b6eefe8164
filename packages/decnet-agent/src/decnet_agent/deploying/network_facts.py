"""What this worker knows of the LAN that its deckies join: its settings, and the addresses that are its own.

Source: proc(5); /proc/net/fib_trie lists every local IPv4 address, whichever interface it is on.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from itertools import pairwise
from pathlib import Path

from decnet_agent.deploying.planning import NetworkFacts
from decnet_agent.settings import AgentSettings
from decnet_core.errors import ConfigError
from decnet_core.settings import required

_FIB_TRIE = Path("/proc/net/fib_trie")
_INTERFACES = Path("/sys/class/net")


def network_facts(settings: AgentSettings) -> NetworkFacts:
    """Put the facts together.

    Raises:
        ConfigError: interface or subnet is not set, or the interface does not exist.
    """
    interface = required(settings.interface, "interface", "put deckies on a LAN")
    if settings.subnet is None:
        required(None, "subnet", "give deckies their addresses")
        raise AssertionError  # never reached: required raises
    if not (_INTERFACES / interface).exists():
        raise ConfigError(f"This host has no interface {interface}", "Set interface to one that `ip link` lists.")
    return NetworkFacts(interface, settings.subnet, settings.gateway, settings.ip_range, own_addresses())


def own_addresses() -> frozenset[IPv4Address]:
    """Every IPv4 address of this host (of this network namespace)."""
    try:
        lines = _FIB_TRIE.read_text().splitlines()
    except OSError:
        return frozenset()
    found: set[IPv4Address] = set()
    for address, kind in pairwise(lines):
        if "host LOCAL" in kind:
            try:
                found.add(IPv4Address(address.rpartition("|-- ")[2].strip()))
            except AddressValueError:
                continue
    return frozenset(found)
