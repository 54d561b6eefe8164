"""What a stranger on the LAN sees: run as a program in the attacker's namespace, prints one JSON object.

    python tests/stealth/outside.py ADDRESS

Plain sockets, no library of SSH, telnet or TCP: the bytes are the evidence. It imports nothing of ours.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import sys
import threading
import time

_SECS = 30.0
_CLOSED = 4444
_ETH_P_ALL, _ARP, _IPV4, _SO_RCVBUFFORCE = 3, b"\x08\x06", b"\x08\x00", 33
_QUEUED_SECS = 2
_PORTS = (*range(1, 1025), 2222, 2223, 2323, 2375, 2376, 3306, 5432, 5601, 6379, 8000, 8080, 8443, 8765, 8766, 9100)
_IAC, _DONT, _DO, _WONT, _WILL = 255, 254, 253, 252, 251
_NAME_LISTS = (
    "kex", "host_keys", "ciphers_in", "ciphers_out", "macs_in", "macs_out", "compression_in", "compression_out",
)  # fmt: skip
_GREETINGS = {
    "garbage": b"GET / HTTP/1.0\r\n\r\n",
    "old": b"SSH-1.5-probe\r\n",
    "binary": bytes(range(128, 256)) + b"\r\n",
    "long": b"A" * 8192 + b"\r\n",
}


def main() -> int:
    """Look, and print."""
    address = sys.argv[1]
    heard = _Listener(address)
    found: dict[str, object] = {"banner": _banner(address), **_key_exchange(address)}
    found["greetings"] = {name: _answer(address, greeting) for name, greeting in _GREETINGS.items()}
    found |= _telnet(address)
    found["ports"] = [port for port in _PORTS if _is_open(address, port)]
    found["closed"] = _refusal(address, _CLOSED)
    found["closed_udp"] = _udp_refusal(address, _CLOSED)
    found["ping"], found["large_ping"] = _echo(address, 56), _echo(address, 2000)
    found |= heard.stop()
    json.dump(found, sys.stdout)
    return 0


class _Listener:
    """Reads the frames that the machine sends, until it is stopped."""

    def __init__(self, address: str) -> None:
        self._address = socket.inet_aton(address)
        self._found: dict[str, object] = {"syn_ack": "none", "reset": "none"}
        self._broadcasts: dict[bytes, int] = {}
        self._mac = b""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.settimeout(0.2)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)  # a scan comes in a burst
        self._until = float("inf")
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def stop(self) -> dict[str, object]:
        """Read what is queued, and say what was heard."""
        self._until = time.monotonic() + _QUEUED_SECS
        self._thread.join()
        self._socket.close()
        return {**self._found, "broadcasts": self._broadcasts.get(self._mac, 0)}

    def _listen(self) -> None:
        while time.monotonic() < self._until:
            try:
                frame = self._socket.recv(2048)
            except TimeoutError:
                if self._until < float("inf"):
                    return
                continue
            # who asks for an answer's way is not who speaks of himself
            if frame[0] & 1 and frame[12:14] != _ARP:
                self._broadcasts[frame[6:12]] = self._broadcasts.get(frame[6:12], 0) + 1
            elif frame[12:14] == _IPV4 and frame[26:30] == self._address and frame[23] == socket.IPPROTO_TCP:
                self._mac = frame[6:12]
                self._take(frame[14:])

    def _take(self, packet: bytes) -> None:
        tcp = packet[(packet[0] & 15) * 4 :]
        port, flags = int.from_bytes(tcp[:2], "big"), tcp[13]
        (ip_id, fragment), ttl = struct.unpack_from(">HH", packet, 4), packet[8]
        told = {"ttl": ttl, "df": fragment >> 14 & 1, "id": "0" if ip_id == 0 else "other"}
        if flags == 0x12 and port == 22:
            window = int.from_bytes(tcp[14:16], "big")
            self._found["syn_ack"] = {**told, "window": window, "options": _options(tcp[20 : (tcp[12] >> 4) * 4])}
        elif flags & 4 and port == _CLOSED:
            self._found["reset"] = {**told, "window": int.from_bytes(tcp[14:16], "big"), "flags": flags}


def _options(raw: bytes) -> list[str]:
    """Name TCP's options in their order, with what does not change from one connection to the next."""
    told = []
    while raw and raw[0]:
        kind = raw[0]
        length = 1 if kind == 1 else raw[1]
        told.append(f"{kind}" if kind in (1, 8) else f"{kind}:{raw[2:length].hex()}")
        raw = raw[length:]
    return told


def _connect(address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), timeout=_SECS)


def _line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and (byte := connection.recv(1)):
        line += byte
    return line


def _banner(address: str) -> str:
    with _connect(address, 22) as connection:
        return _line(connection).decode("latin-1")


def _key_exchange(address: str) -> dict[str, str]:
    """Read the server's SSH_MSG_KEXINIT (RFC 4253, section 7.1)."""
    with _connect(address, 22) as connection:
        _line(connection)
        connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
        (length,) = struct.unpack(">I", _exactly(connection, 4))
        packet = _exactly(connection, length)
    at, lists = 1 + 1 + 16, {}  # padding length, message number, cookie
    for name in _NAME_LISTS:
        (size,) = struct.unpack_from(">I", packet, at)
        lists[name] = packet[at + 4 : at + 4 + size].decode("latin-1")
        at += 4 + size
    hassh = ";".join(lists[name] for name in ("kex", "ciphers_out", "macs_out", "compression_out"))
    return {**lists, "hassh": hashlib.md5(hassh.encode(), usedforsecurity=False).hexdigest()}


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise ConnectionError("the server closed before its key exchange was whole")
        data += chunk
    return data


def _answer(address: str, greeting: bytes) -> str:
    """What comes back to a greeting that is none, without the server's own banner."""
    with _connect(address, 22) as connection:
        _line(connection)
        said = b""
        try:
            connection.sendall(greeting)
            while chunk := connection.recv(4096):
                said += chunk
        except TimeoutError:
            said += b"<silence>"
        except ConnectionError:
            said += b"<reset>"
    return said.decode("latin-1")


def _telnet(address: str) -> dict[str, str]:
    """The options that the server opens with, and what it prints before it asks; every option is refused."""
    with _connect(address, 23) as connection:
        first = raw = _exactly(connection, 12)
        text = b""
        while True:
            while len(raw) >= 3 or (raw and raw[0] != _IAC):
                if raw[0] != _IAC:
                    text, raw = text + raw[:1], raw[1:]
                    continue
                if raw[1] in (_WILL, _DO):
                    connection.sendall(bytes((_IAC, _DONT if raw[1] == _WILL else _WONT, raw[2])))
                raw = raw[3:]
            if text.endswith(b"login: ") or not (chunk := connection.recv(4096)):
                return {"telnet_options": first.hex(), "telnet_text": text.decode("latin-1")}
            raw += chunk


def _is_open(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) == 0


def _echo(address: str, count: int) -> str:
    """Ask for an ICMP echo of so many bytes."""
    content = bytes(range(256)) * 8
    message = struct.pack(">BBHHH", 8, 0, 0, 77, count) + content[:count]
    total = sum(struct.unpack(f">{len(message) // 2}H", message))
    total = (total >> 16) + (total & 0xFFFF)
    message = message[:2] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + message[4:]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as probe:
        probe.settimeout(5)
        probe.sendto(message, (address, 0))
        try:
            while True:
                packet, (sender, _) = probe.recvfrom(4096)
                if sender == address and packet[20] == 0 and packet[24:28] == message[4:8]:
                    return f"ttl {packet[8]}, {'the same' if packet[28:] == message[8:] else 'other'} bytes"
        except TimeoutError:
            return "silent"


def _udp_refusal(address: str, port: int) -> str:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.settimeout(5)
        probe.connect((address, port))
        try:
            probe.send(b"x")
            return repr(probe.recv(100))
        except ConnectionRefusedError:
            return "unreachable"
        except TimeoutError:
            return "silent"


def _refusal(address: str, port: int) -> str:
    began = time.monotonic()
    with socket.socket() as probe:
        probe.settimeout(5)
        try:
            probe.connect((address, port))
        except ConnectionRefusedError:
            return "refused" if time.monotonic() - began < 4 else "refused late"
        except TimeoutError:
            return "silent"
    return "open"


if __name__ == "__main__":
    raise SystemExit(main())
