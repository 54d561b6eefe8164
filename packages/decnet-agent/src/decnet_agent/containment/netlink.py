"""Talk to the kernel over netlink: the codec of its attributes, and a socket that waits for what was acknowledged.

A message is a header of 16 bytes, a fixed part that depends on its type, and attributes: length, type, value, padded to
four bytes; a nested attribute holds others. Numbers of the header are the machine's own byte order; those of nf_tables'
attributes are big-endian, those of rtnetlink's are the machine's own.

`Netlink.commit` sends messages and comes back when the kernel has done them all; an error of the kernel comes out as
`KernelRefused` with its errno. Every wait has an end.

The codec is total: `messages` and `attributes` take any bytes and return what is whole in them.
Source: netlink(7); include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from decnet_core.errors import Unavailable

REQUEST, ACK, ROOT_AND_MATCH, EXCL, CREATE, APPEND = 0x1, 0x4, 0x300, 0x200, 0x400, 0x800

NLMSG_ERROR, NLMSG_DONE = 2, 3

ANSWER_SECS = 5.0
"""The kernel answers within the call; only a lock that somebody else holds makes it wait."""

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_BUFFER_BYTES = 1 << 20
_READ_BYTES = 1 << 18


class KernelRefused(Unavailable):
    """The kernel did not do what a message asked for; `number` is its errno."""

    def __init__(self, number: int, doing: str) -> None:
        advice = {
            errno.EPERM: "Run its unit decnet-containment, or as root: it takes CAP_NET_ADMIN.",
            errno.EOPNOTSUPP: "The kernel needs nf_tables with netdev egress hooks: Linux 5.16 or newer.",
            errno.ENODEV: "Bring the interface up, or set interface.",
        }.get(number, "`dmesg` may say more; see that the kernel has nf_tables and veth.")
        super().__init__(f"Cannot {doing}: {os.strerror(number)}", advice)
        self.number = number


@dataclass(frozen=True, slots=True)
class Message:
    """One netlink message: `kind` is its type, `body` what follows the header."""

    kind: int
    flags: int
    body: bytes

    def packed(self, sequence: int) -> bytes:
        """Return its bytes."""
        header = _HEADER.pack(_HEADER.size + len(self.body), self.kind, self.flags, sequence, 0)
        return _padded(header + self.body)


def attribute(kind: int, value: bytes) -> bytes:
    """Make one attribute."""
    return _padded(_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value)


def nested(kind: int, *inner: bytes) -> bytes:
    """Make an attribute that holds others."""
    return attribute(kind | _NESTED, b"".join(inner))


def text(kind: int, value: str) -> bytes:
    """Make an attribute of text, which ends with a NUL."""
    return attribute(kind, value.encode("ascii") + b"\0")


def be32(kind: int, value: int) -> bytes:
    """Make an attribute of a big-endian number of 32 bits; negative ones as the kernel's verdicts are."""
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def be64(kind: int, value: int) -> bytes:
    """Make an attribute of a big-endian number of 64 bits."""
    return attribute(kind, struct.pack(">Q", value))


def attributes(data: bytes) -> dict[int, bytes]:
    """Read attributes; of several of one type the last counts."""
    return dict(listed(data))


def listed(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Read attributes in their order, types without their flags; what is cut off ends it."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            return
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4


def messages(data: bytes) -> Iterator[tuple[Message, int]]:
    """Read the messages of one datagram, each with its sequence number; what is cut off ends it."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        yield Message(kind, flags, data[at + _HEADER.size : at + length]), sequence
        at += length + -length % 4


class Netlink:
    """A socket of one netlink family; blocking, each wait bounded by `ANSWER_SECS`.

    Raises:
        Unavailable: the kernel has no such family.
    """

    def __init__(self, family: int) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
            self._socket.bind((0, 0))
        except OSError as cause:
            raise KernelRefused(cause.errno or errno.EIO, "open a netlink socket") from cause
        self._socket.settimeout(ANSWER_SECS)
        self._sequence = 0
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; the kernel lets go of what it owns."""
        self._socket.close()

    @property
    def port(self) -> int:
        """The kernel's name of this socket."""
        port: int = self._socket.getsockname()[0]
        return port

    def commit(self, sent: Sequence[Message], doing: str, wrapped: Mapping[bool, Message] | None = None) -> None:
        """Send messages and wait until the kernel has done them.

        Args:
            sent: each is acknowledged by itself.
            doing: for the error: what fails.
            wrapped: the messages that begin (True) and end (False) a batch, of which the kernel does all or nothing.

        Raises:
            KernelRefused: the first error that the kernel tells.
        """
        waiting: set[int] = set()
        ours: set[int] = set()
        packed = b""
        for message in [*([wrapped[True]] if wrapped else []), *sent, *([wrapped[False]] if wrapped else [])]:
            self._sequence = (self._sequence + 1) & 0xFFFFFFFF
            packed += message.packed(self._sequence)
            ours.add(self._sequence)
            if message.flags & ACK:
                waiting.add(self._sequence)
        try:
            self._socket.send(packed)
            while waiting:
                for message, sequence in messages(self._socket.recv(_READ_BYTES)):
                    if message.kind == NLMSG_ERROR and sequence in ours:  # others are of a call that was given up
                        if number := _errno(message):
                            raise KernelRefused(number, doing)
                        waiting.discard(sequence)
        except TimeoutError as cause:
            raise KernelRefused(errno.ETIMEDOUT, doing) from cause
        except OSError as cause:
            raise KernelRefused(cause.errno or errno.EIO, doing) from cause

    def ask(self, question: Message, doing: str) -> list[Message]:
        """Send a question and return all messages of the answer; none when what it asks for is not there.

        Raises:
            KernelRefused: the kernel cannot answer.
        """
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        found: list[Message] = []
        try:
            self._socket.send(question.packed(self._sequence))
            while True:
                for message, sequence in messages(self._socket.recv(_READ_BYTES)):
                    if sequence != self._sequence:
                        continue
                    if message.kind == NLMSG_DONE:
                        return found
                    if message.kind == NLMSG_ERROR:
                        number = _errno(message)
                        if number in (0, errno.ENOENT, errno.ENODEV):
                            return found
                        raise KernelRefused(number, doing)
                    found.append(message)
        except TimeoutError as cause:
            raise KernelRefused(errno.ETIMEDOUT, doing) from cause
        except OSError as cause:
            raise KernelRefused(cause.errno or errno.EIO, doing) from cause


def _errno(message: Message) -> int:
    """Return the error of an NLMSG_ERROR; 0 is an acknowledgement."""
    return -int.from_bytes(message.body[:4], sys.byteorder, signed=True) if len(message.body) >= 4 else errno.EBADMSG


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
