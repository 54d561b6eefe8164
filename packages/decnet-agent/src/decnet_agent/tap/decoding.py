r"""Make facts of the kernel's records, and text of what attackers wrote.

A record has a fixed header and one text with its length (`programs` draws the layout), so nothing inside the text, no
newline and no control byte, can end it or begin another. `decode` takes any bytes: what does not fit the layout is a
RemoteProtocolError. Text stays bytes up to `readable`, which keeps UTF-8 and shows every other byte as `\\xNN`.
"""

from __future__ import annotations

import shlex
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from decnet_agent.tap.programs import HEADER_BYTES, NAME_BYTES, SOCKET_BYTES, Kind
from decnet_core.errors import RemoteProtocolError

COMMAND_CHARACTERS = 8192
"""What an event holds of one command: an event is one syslog line, and receivers bound those."""

_HEADER = struct.Struct("=IIQIIIIQQ16sIIII")
_SOCKET = struct.Struct("=HBxH2s4s4s16s16s")
_ESTABLISHED, _CLOSE_WAIT = 1, 8  # include/net/tcp_states.h


@dataclass(frozen=True, slots=True)
class Flow:
    """An established TCP connection, seen from the decky."""

    src_ip: str
    src_port: int
    dst_ip: str
    dst_port: int


@dataclass(frozen=True, slots=True)
class Record:
    """One fact from the kernel.

    Times are nanoseconds since boot. `parent` is the parent's pid on the host. `number` belongs to the kind (a PAM
    item's type). `flow` is the connection that an executed program has as its standard input. `text_bytes` is how long
    the text was in the process; `text` may be shorter.
    """

    kind: Kind
    namespace: int
    at_ns: int
    pid: int
    decky_pid: int
    parent: int
    uid: int
    started_ns: int
    parent_started_ns: int
    name: bytes
    has_terminal: bool
    number: int = 0
    file: bytes = b""
    flow: Flow | None = None
    text: bytes = b""
    text_bytes: int = 0


def decode(data: bytes) -> Record:
    """Read one record.

    Raises:
        RemoteProtocolError: the bytes are not of the layout.
    """
    if len(data) < HEADER_BYTES:
        raise RemoteProtocolError("A record of the kernel is shorter than its header")
    (
        kind,
        namespace,
        at_ns,
        pid,
        decky_pid,
        parent,
        uid,
        started,
        parent_started,
        name,
        terminal,
        number,
        length,
        whole,
    ) = _HEADER.unpack_from(data)
    if kind not in set(Kind):
        raise RemoteProtocolError(f"A record of the kernel has the unknown kind {kind}")
    text_at, file, flow = HEADER_BYTES, b"", None
    if kind == Kind.EXECUTED:
        text_at += NAME_BYTES + SOCKET_BYTES
        if len(data) < text_at:
            raise RemoteProtocolError("A record of an executed program is shorter than its fixed part")
        file = data[HEADER_BYTES : HEADER_BYTES + NAME_BYTES].partition(b"\0")[0]
        flow = _flow(data[HEADER_BYTES + NAME_BYTES : text_at])
    if text_at + length > len(data):
        raise RemoteProtocolError("A record of the kernel is shorter than its text")
    text = data[text_at : text_at + length]
    return Record(
        kind=Kind(kind),
        namespace=namespace,
        at_ns=at_ns,
        pid=pid,
        decky_pid=decky_pid,
        parent=parent,
        uid=uid,
        started_ns=started,
        parent_started_ns=parent_started,
        name=name.partition(b"\0")[0],
        has_terminal=bool(terminal),
        number=number,
        file=file,
        flow=flow,
        text=text if kind == Kind.EXECUTED else text.partition(b"\0")[0],
        text_bytes=whole,
    )


def arguments(record: Record) -> list[bytes]:
    """Split the arguments of an executed program; the last may be cut short."""
    return record.text.removesuffix(b"\0").split(b"\0") if record.text else []


def command_line(words: Sequence[bytes], *, cut: bool) -> str:
    """Write arguments as one line that a shell would split the same way; `…` at the end says that it was cut."""
    return _bounded(shlex.join(readable(word) for word in words), cut=cut)


def readable(data: bytes) -> str:
    r"""Keep UTF-8, show all else as `\\xNN`."""
    return data.decode("utf-8", "backslashreplace")


def typed_line(data: bytes) -> str:
    """Make text of a typed line."""
    return _bounded(readable(data), cut=False)


def _flow(data: bytes) -> Flow | None:
    family, state, own_port, peer_port, peer4, own4, peer6, own6 = _SOCKET.unpack(data)
    if state not in (_ESTABLISHED, _CLOSE_WAIT):
        return None
    if family == socket.AF_INET:
        peer, own = str(IPv4Address(peer4)), str(IPv4Address(own4))
    elif family == socket.AF_INET6:
        peer, own = (str(address.ipv4_mapped or address) for address in (IPv6Address(peer6), IPv6Address(own6)))
    else:
        return None
    return Flow(peer, int.from_bytes(peer_port, "big"), own, own_port)


def _bounded(text: str, *, cut: bool) -> str:
    return text[:COMMAND_CHARACTERS] + ("…" if cut or len(text) > COMMAND_CHARACTERS else "")
