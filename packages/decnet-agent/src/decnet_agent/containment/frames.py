"""Read what a decky wanted to say out of the beginning of a frame; total over any bytes.

What cannot be read is said as far as it can: a frame of which nothing is known is `ether 0x….`. Nothing is believed: a
source is what the frame claims, and `blocked` holds it against the deckies.
Source: RFC 791, 792, 768, 9293, 826, 8200; IEEE 802.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

_ETHER_BYTES = 14
_TAGS = (0x8100, 0x88A8)
_PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmpv6"}


@dataclass(frozen=True, slots=True)
class Frame:
    """What a frame claims.

    Attributes:
        source: MAC, as text.
        target: the same.
        protocol: `tcp`, `udp`, `icmp`, `arp`, `ip-<n>`, `icmpv6`, `ipv6-<n>`, `ether-<hex>`.
        source_ip, target_ip: of IP, or of what an ARP frame tells and asks.
        target_port: of TCP and UDP; the type of an ICMP message.
        tagged, fragment: it has a VLAN's tag; it is a later part of a datagram.
    """

    source: str
    target: str
    protocol: str
    source_ip: IPv4Address | IPv6Address | None = None
    target_ip: IPv4Address | IPv6Address | None = None
    target_port: int | None = None
    tagged: bool = False
    fragment: bool = False


def read_frame(data: bytes) -> Frame | None:
    """Read the beginning of a frame; None when it is shorter than an Ethernet header."""
    if len(data) < _ETHER_BYTES:
        return None
    target, source = _mac(data[:6]), _mac(data[6:12])
    kind, at, tagged = _number(data, 12, 2), _ETHER_BYTES, False
    for _ in range(2):
        if kind in _TAGS and len(data) >= at + 4:
            kind, at, tagged = _number(data, at + 2, 2), at + 4, True
    rest = data[at:]
    if kind == 0x0800 and len(rest) >= 20 and rest[0] >> 4 == 4:
        return _ipv4(source, target, rest, tagged=tagged)
    if kind == 0x86DD and len(rest) >= 40 and rest[0] >> 4 == 6:
        return _ipv6(source, target, rest, tagged=tagged)
    if kind == 0x0806 and len(rest) >= 28:
        return Frame(source, target, "arp", IPv4Address(rest[14:18]), IPv4Address(rest[24:28]), tagged=tagged)
    return Frame(
        source, target, {0x0800: "ipv4", 0x86DD: "ipv6", 0x0806: "arp"}.get(kind, f"ether-{kind:04x}"), tagged=tagged
    )


def _ipv4(source: str, target: str, data: bytes, *, tagged: bool) -> Frame:
    header, number = (data[0] & 15) * 4, data[9]
    later = bool(_number(data, 6, 2) & 0x1FFF)
    port = None if later or header < 20 else _port(_PROTOCOLS.get(number, ""), data[header:])
    protocol = _PROTOCOLS.get(number, f"ip-{number}")
    ends = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    return Frame(source, target, protocol, *ends, port, tagged, later)


def _ipv6(source: str, target: str, data: bytes, *, tagged: bool) -> Frame:
    name = _PROTOCOLS.get(data[6], "")
    ends = IPv6Address(data[8:24]), IPv6Address(data[24:40])
    return Frame(source, target, name or f"ipv6-{data[6]}", *ends, _port(name, data[40:]), tagged)


def _port(protocol: str, data: bytes) -> int | None:
    if protocol in ("tcp", "udp") and len(data) >= 4:
        return _number(data, 2, 2)
    if protocol in ("icmp", "icmpv6") and data:
        return data[0]
    return None


def _number(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "big")


def _mac(data: bytes) -> str:
    return data.hex(":")
