"""What the kernel enforces on a decoy LAN's interface: pure, from a policy to sets, chains and rules.

    table netdev decnet-<interface>
      set deckies     MACs of deckies           set pairs     (MAC, address) of deckies
      set own         MACs of the interface     set services  (MAC, UDP port) of deckies' services
      sets arp, udp, icmp, passages             how much of it each decky said lately
      chain egress    hook egress of the interface: what leaves
      chain ingress   hook ingress of the interface: what one decky says to another on this host
      chain decky     what a decky may say; the last rule sends everything else to the sink
      chain sink      hook ingress of the sink's far end: the host hears nothing of it

A decky may: speak ARP as itself; go on with TCP that somebody else began (a segment that is not a bare SYN); answer
from the UDP ports of its services; say the ICMP that answers (echo reply, unreachable, time exceeded). Each but TCP up
to a rate. Everything else, IPv6 and tagged frames and fragments included, is forwarded to the sink, where the sender
sees no difference. So is a frame that leaves with a MAC that is neither a decky's nor the interface's own.

What it does not do: keep state. Without CAP_NET_RAW nobody in a decky can make a TCP segment that is not a bare SYN and
belongs to no connection.

No name of a decky enters a rule; MACs, addresses and ports do, as bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Network

from decnet_agent.containment.expressions import (
    LINK,
    NETWORK,
    TRANSPORT,
    Accept,
    Compare,
    Count,
    Drop,
    Expression,
    Forward,
    Jump,
    Lookup,
    Masked,
    Payload,
    Protocol,
    Within,
)
from decnet_agent.containment.pairs import Passage, Policy

INGRESS, EGRESS = 0, 1
"""Hooks of the netdev family."""

PRIORITY = -150
"""Before the rules of others, whose priority is mostly filter's 0."""

ARP_PER_SECOND, ARP_BURST = 50, 200
"""A decky under a scan of a /24 answers 254 questions at once; a burst of its own questions is noise on the LAN."""
UDP_PER_SECOND, UDP_BURST = 50, 100
"""Enough for a resolver or SNMP under test; too little to amplify."""
ICMP_PER_SECOND, ICMP_BURST = 20, 100
"""Linux itself limits unreachables to some per second; ten people may ping."""

ETHER_ADDRESS, IP_ADDRESS, PORT = 9, 7, 13
"""How `nft list` writes the fields of a set's key. Source: nftables, enum datatypes."""

_ETHER_SOURCE = Payload(LINK, 6, 6)
_ETHER_TYPE = Payload(LINK, 12, 2)
_ARP, _IPV4 = b"\x08\x06", b"\x08\x00"
_ARP_FORM, _ARP_OVER_ETHERNET = Payload(NETWORK, 0, 6), b"\x00\x01\x08\x00\x06\x04"
"""Hardware Ethernet, protocol IPv4, the lengths of their addresses: only then the others lie where they are read."""
_ARP_SENDER, _ARP_SENDER_IP = Payload(NETWORK, 8, 6), Payload(NETWORK, 14, 4, word=2)
_SOURCE_IP = Payload(NETWORK, 12, 4, word=2)
_TARGET_IP = Payload(NETWORK, 16, 4)
_SOURCE_PORT = Payload(TRANSPORT, 0, 2, word=2)
_TARGET_PORT = Payload(TRANSPORT, 2, 2)
_TCP_FLAGS = Payload(TRANSPORT, 13, 1)
_SYN, _SYN_ACK = b"\x02", b"\x12"
_ICMP_TYPE = Payload(TRANSPORT, 0, 1)
_ICMP, _TCP, _UDP = b"\x01", b"\x06", b"\x11"
_ANSWERS = (b"\x00", b"\x03", b"\x0b")


@dataclass(frozen=True, slots=True)
class KernelSet:
    """A set of keys; each key's fields are `fields`, each padded to whole words. `rated` ones the kernel fills."""

    name: str
    fields: tuple[int, ...]
    keys: frozenset[bytes] = frozenset()
    rated: bool = False

    @property
    def key_bytes(self) -> int:
        """How long a key is."""
        if len(self.fields) == 1:
            return {ETHER_ADDRESS: 6, IP_ADDRESS: 4, PORT: 2}[self.fields[0]]
        return sum({ETHER_ADDRESS: 8, IP_ADDRESS: 4, PORT: 4}[field] for field in self.fields)


@dataclass(frozen=True, slots=True)
class Chain:
    """Rules in their order; with a hook they see the frames of a device, without one they are jumped to."""

    name: str
    rules: tuple[tuple[Expression, ...], ...]
    hook: int | None = None
    device: str = ""


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A whole table; chains stand before those that jump to them."""

    table: str
    sets: tuple[KernelSet, ...]
    chains: tuple[Chain, ...]


def make_ruleset(interface: str, own: Sequence[str], policy: Policy, sink_index: int, sink_end: str) -> Ruleset:
    """Say what a policy comes to.

    Args:
        interface: the deckies' parent.
        own: MACs of the host itself on it.
        policy: the deckies, and where they may go.
        sink_index: the kernel's number of the device that blocked frames are sent to.
        sink_end: name of the device where they arrive.
    """
    sink = (Count(), Forward(sink_index))
    decky = Chain("decky", (*_answers(), *_passages(policy.passages, policy.passage_per_second), sink))
    from_decky = (_ETHER_SOURCE, Lookup("deckies"), Jump("decky"))
    return Ruleset(
        table_name(interface),
        sets=(
            KernelSet("deckies", (ETHER_ADDRESS,), frozenset(mac_bytes(pair.mac) for pair in policy.pairs)),
            KernelSet("own", (ETHER_ADDRESS,), frozenset(map(mac_bytes, own))),
            KernelSet(
                "pairs",
                (ETHER_ADDRESS, IP_ADDRESS),
                frozenset(key_of(mac_bytes(pair.mac), pair.ip.packed) for pair in policy.pairs),
            ),
            KernelSet(
                "services",
                (ETHER_ADDRESS, PORT),
                frozenset(
                    key_of(mac_bytes(pair.mac), struct.pack(">H", port))
                    for pair in policy.pairs
                    for port in pair.udp_ports
                ),
            ),
            *(KernelSet(name, (ETHER_ADDRESS,), rated=True) for name in ("arp", "udp", "icmp", "passages")),
        ),
        chains=(
            decky,
            Chain("egress", (from_decky, (_ETHER_SOURCE, Lookup("own"), Accept()), sink), EGRESS, interface),
            Chain("ingress", (from_decky,), INGRESS, interface),
            Chain("sink", ((Count(), Drop()),), INGRESS, sink_end),
        ),
    )


def table_name(interface: str) -> str:
    """Return the table's name, which nft can be told: an interface may be called what a table may not."""
    plain = re.sub(r"[^a-zA-Z0-9_.-]", "_", interface)
    mark = "" if plain == interface else "-" + blake2b(interface.encode(), digest_size=4).hexdigest()
    return f"decnet-{plain}{mark}"


def mac_bytes(mac: str) -> bytes:
    """Return a MAC's six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def key_of(*fields: bytes) -> bytes:
    """Put a key together: each field padded to whole words."""
    return b"".join(field + bytes(-len(field) % 4) for field in fields)


def _answers() -> tuple[tuple[Expression, ...], ...]:
    """Say what every decky may; each rule that accepts holds the address first."""
    arp = (_ETHER_TYPE, Compare(_ARP), _ARP_FORM, Compare(_ARP_OVER_ETHERNET))
    itself = (_ETHER_SOURCE, _ARP_SENDER_IP, Lookup("pairs"), _ARP_SENDER, Lookup("pairs"))
    ip = (_ETHER_TYPE, Compare(_IPV4), Protocol(3), Compare(_IPV4), _ETHER_SOURCE, _SOURCE_IP, Lookup("pairs"))
    arp_rate = (_ETHER_SOURCE, Within("arp", ARP_PER_SECOND, ARP_BURST))
    icmp_rate = (_ETHER_SOURCE, Within("icmp", ICMP_PER_SECOND, ICMP_BURST))
    udp_rate = (_ETHER_SOURCE, Within("udp", UDP_PER_SECOND, UDP_BURST))
    return (
        (*arp, *itself, *arp_rate, Accept()),
        (*ip, Protocol(4), Compare(_TCP), _TCP_FLAGS, Masked(_SYN_ACK), Compare(_SYN, equal=False), Accept()),
        (*ip, Protocol(4), Compare(_UDP), _ETHER_SOURCE, _SOURCE_PORT, Lookup("services"), *udp_rate, Accept()),
        *((*ip, Protocol(4), Compare(_ICMP), _ICMP_TYPE, Compare(kind), *icmp_rate, Accept()) for kind in _ANSWERS),
    )


def _passages(passages: Sequence[Passage], per_second: int) -> tuple[tuple[Expression, ...], ...]:
    ip = (_ETHER_TYPE, Compare(_IPV4), Protocol(3), Compare(_IPV4), _ETHER_SOURCE, _SOURCE_IP, Lookup("pairs"))
    rate = (_ETHER_SOURCE, Within("passages", per_second, 4 * per_second))
    return tuple(
        (
            *ip,
            Protocol(4),
            Compare(_TCP if passage.protocol == "tcp" else _UDP),
            *_towards(passage.network),
            _TARGET_PORT,
            Compare(struct.pack(">H", passage.port)),
            *rate,
            Accept(),
        )
        for passage in passages
    )


def _towards(network: IPv4Network) -> tuple[Expression, ...]:
    return (_TARGET_IP, Masked(network.netmask.packed), Compare(network.network_address.packed))
