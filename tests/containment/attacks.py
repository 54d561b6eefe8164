"""Attacks on a machine of the LAN, tried from within a decky's network namespace: run as a program, by root.

    attacks.py OWN-MAC OWN-IP TARGET-IP TARGET-MAC SIBLING-MAC SIBLING-IP

With CAP_NET_RAW, which no decky has: what the parent interface enforces must hold even then. Each attack is one line of
JSON: its name, what it met (an errno's name, `timeout`, `silence`, `sent`, or `answered`, which is a way out), and what
the record must say of it: protocol, target, port and reason.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import sys
from collections.abc import Callable

WAIT_SECS = 0.2
MARK = b"decnet-containment-probe"
_BROADCAST = b"\xff" * 6


def main() -> None:
    """Try everything, print what came of it."""
    own_mac, own_ip, target_ip, target_mac, sibling_mac, sibling_ip = sys.argv[1:7]
    own, target, sibling = _mac(own_mac), _mac(target_mac), _mac(sibling_mac)
    index = "eth0"

    def raw(frame: bytes) -> str:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as channel:
            channel.bind((index, 0))
            channel.send(frame)
        return "sent"

    syn = 0x02
    icmp = _checked(struct.pack(">BBHHH", 8, 0, 0, 7, 7) + MARK, 2)
    redirect = _checked(struct.pack(">BBH4s", 5, 1, 0, socket.inet_aton(own_ip)) + MARK, 2)
    unknown, foreign = _mac("02:00:5e:99:99:99"), "10.250.250.250"

    def ip(source: str, protocol: int, payload: bytes, *, offset: int = 0) -> bytes:
        return _ipv4(source, target_ip, protocol, payload, offset=offset)

    def tcp(source: str, port: int, flags: int) -> bytes:
        return ip(source, 6, _tcp(source, target_ip, port, flags))

    def udp(source: str, port: int) -> bytes:
        return ip(source, 17, struct.pack(">HHHH", 40000, port, 8 + len(MARK), 0) + MARK)

    v6 = (
        b"\x60\0\0\0"
        + struct.pack(">HBB", 8, 58, 255)
        + b"\xfe\x80"
        + bytes(13)
        + b"\x01"
        + b"\xff\x02"
        + bytes(13)
        + b"\x01"
    )
    attacks: list[tuple[str, Callable[[], str], str, str, int, str]] = [
        ("tcp", lambda: _connect(target_ip, 7001), "tcp", target_ip, 7001, "not-an-answer"),
        ("udp", lambda: _datagram(target_ip, 7002), "udp", target_ip, 7002, "not-an-answer"),
        ("dns", lambda: _datagram(target_ip, 53), "udp", target_ip, 53, "not-an-answer"),
        ("broadcast", lambda: _datagram("255.255.255.255", 7003), "udp", "255.255.255.255", 7003, "not-an-answer"),
        ("ping", lambda: _ping(target_ip), "icmp", target_ip, 8, "not-an-answer"),
        (
            "raw-syn",
            lambda: raw(target + own + b"\x08\0" + tcp(own_ip, 7004, syn)),
            "tcp",
            target_ip,
            7004,
            "not-an-answer",
        ),
        ("raw-udp", lambda: raw(target + own + b"\x08\0" + udp(own_ip, 7005)), "udp", target_ip, 7005, "not-an-answer"),
        (
            "raw-redirect",
            lambda: raw(target + own + b"\x08\0" + ip(own_ip, 1, redirect)),
            "icmp",
            target_ip,
            5,
            "not-an-answer",
        ),
        (
            "raw-protocol",
            lambda: raw(target + own + b"\x08\0" + ip(own_ip, 47, MARK)),
            "ip-47",
            target_ip,
            -1,
            "not-an-answer",
        ),
        (
            "fragment",
            lambda: raw(target + own + b"\x08\0" + ip(own_ip, 6, MARK, offset=3)),
            "tcp",
            target_ip,
            -1,
            "not-an-answer",
        ),
        (
            "false-ip",
            lambda: raw(target + own + b"\x08\0" + tcp(foreign, 7006, 0x12)),
            "tcp",
            target_ip,
            7006,
            "false-address",
        ),
        (
            "false-ping",
            lambda: raw(target + own + b"\x08\0" + ip(foreign, 1, icmp)),
            "icmp",
            target_ip,
            8,
            "false-address",
        ),
        (
            "false-mac",
            lambda: raw(target + unknown + b"\x08\0" + tcp(own_ip, 7007, 0x12)),
            "tcp",
            target_ip,
            7007,
            "unknown-mac",
        ),
        (
            "sibling-mac",
            lambda: raw(target + sibling + b"\x08\0" + tcp(own_ip, 7008, 0x12)),
            "tcp",
            target_ip,
            7008,
            "false-address",
        ),
        (
            "sibling-syn",
            lambda: raw(target + sibling + b"\x08\0" + tcp(sibling_ip, 7009, syn)),
            "tcp",
            target_ip,
            7009,
            "not-an-answer",
        ),
        (
            "arp-spoof",
            lambda: raw(target + own + b"\x08\x06" + _arp(2, own, foreign, target, target_ip)),
            "arp",
            target_ip,
            -1,
            "false-address",
        ),
        (
            "arp-forged",
            lambda: raw(target + own + b"\x08\x06" + _arp(2, unknown, own_ip, target, target_ip)),
            "arp",
            target_ip,
            -1,
            "not-an-answer",
        ),
        (
            "ipv6",
            lambda: raw(b"\x33\x33\0\0\0\x01" + own + b"\x86\xdd" + v6 + MARK),
            "icmpv6",
            "ff02::1",
            -2,
            "not-an-answer",
        ),
        (
            "vlan",
            lambda: raw(target + own + b"\x81\0\0\x05\x08\0" + tcp(own_ip, 7010, 0x12)),
            "tcp",
            target_ip,
            7010,
            "not-an-answer",
        ),
        ("ether", lambda: raw(target + own + b"\x88\xb5" + MARK), "ether-88b5", "", -1, "not-an-answer"),
    ]
    for name, attack, *record in attacks:
        try:
            met = attack()
        except TimeoutError:
            met = "timeout"
        except OSError as error:
            met = errno.errorcode.get(error.errno or 0, "?")
        print(json.dumps({"name": name, "met": met, "record": record}), flush=True)


def _connect(address: str, port: int) -> str:
    with socket.socket() as channel:
        channel.settimeout(WAIT_SECS)
        channel.connect((address, port))
    return "answered"


def _datagram(address: str, port: int) -> str:
    with socket.socket(type=socket.SOCK_DGRAM) as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        channel.settimeout(WAIT_SECS)
        channel.sendto(MARK, (address, port))
        try:
            channel.recv(100)
        except TimeoutError:
            return "silence"
    return "answered"


def _ping(address: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as channel:
        channel.settimeout(WAIT_SECS)
        channel.sendto(_checked(struct.pack(">BBHHH", 8, 0, 0, 9, 9) + MARK, 2), (address, 0))
        try:
            channel.recv(100)
        except TimeoutError:
            return "silence"
    return "answered"


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _arp(operation: int, sender: bytes, sender_ip: str, target: bytes, target_ip: str) -> bytes:
    header = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    return header + sender + socket.inet_aton(sender_ip) + target + socket.inet_aton(target_ip)


def _ipv4(source: str, target: str, protocol: int, payload: bytes, *, offset: int = 0) -> bytes:
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, offset, 64, protocol, 0)
    header += socket.inet_aton(source) + socket.inet_aton(target)
    return _checked(header, 10) + payload


def _tcp(source: str, target: str, port: int, flags: int) -> bytes:
    segment = struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 0x50, flags, 1024, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack(">BBH", 0, 6, len(segment))
    return segment[:16] + struct.pack(">H", _sum(pseudo + segment)) + segment[18:]


def _checked(data: bytes, at: int) -> bytes:
    return data[:at] + struct.pack(">H", _sum(data)) + data[at + 2 :]


def _sum(data: bytes) -> int:
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


if __name__ == "__main__":
    main()
