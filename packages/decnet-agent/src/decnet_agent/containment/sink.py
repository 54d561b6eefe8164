"""Where blocked frames end: a pair of virtual devices, and the socket at its far end that sees what arrives.

    snk<n>  <- what the rules forward        snk<n>e  -> our packet socket; the rules drop it before the host's stack

n is the kernel's number of the deckies' parent interface, so that each has a pair of its own and a pair whose interface
is gone can be told. Neither end has an address, IPv6's made-up ones included.

A flood costs no more than it may: frames are read `MOST_AT_ONCE` at a time, `PAUSE_SECS` apart, their first
`SEEN_BYTES` bytes; what the socket's buffer does not hold meanwhile the kernel drops and counts, and `lost` tells.

Source: packet(7), veth(4), rtnetlink(7).
"""

from __future__ import annotations

import errno
import re
import socket
import struct
from collections.abc import Iterator

from decnet_agent.containment.interfaces import is_up
from decnet_agent.containment.netlink import (
    ACK,
    CREATE,
    EXCL,
    REQUEST,
    KernelRefused,
    Message,
    Netlink,
    attribute,
    nested,
    text,
)
from decnet_core.errors import Unavailable

SEEN_BYTES = 128
"""Ethernet, the longest IPv4 header and what is looked at of the transport's."""
MOST_AT_ONCE = 512
PAUSE_SECS = 0.02
"""With the above 25,000 frames a second at most, and a tenth of a second's work for each second."""

_BUFFER_BYTES = 4 << 20
_NEW_LINK, _DEL_LINK = 16, 17
_LINK = struct.Struct("=BxHiII")
_UP = 0x1
_NAME, _LINK_INFO, _AF_SPEC = 3, 18, 26
_INFO_KIND, _INFO_DATA, _PEER = 1, 2, 1
_INET6, _ADDRESS_MODE, _NO_ADDRESS = 10, 8, 1
_SOL_PACKET, _STATISTICS = 263, 6
_EVERY_PROTOCOL = 0x0003


class Sink:
    """The sink of one interface, made if it is not there.

    Args:
        kernel: for links.
        parent_index: the kernel's number of the deckies' parent.

    Raises:
        KernelRefused: the devices cannot be made.
        Unavailable: they cannot be listened at.
    """

    def __init__(self, kernel: Netlink, parent_index: int) -> None:
        self.parent_index = parent_index
        self.name, self.end = f"snk{parent_index}", f"snk{parent_index}e"
        self.lost = 0
        """Frames that the kernel dropped because they were not read in time."""
        self._make(kernel)
        try:
            self.index = socket.if_nametoindex(self.name)
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0
            )
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._socket.bind((self.end, _EVERY_PROTOCOL))
        except OSError as cause:
            raise Unavailable(
                f"Nobody can listen at {self.end}: {cause.strerror}",
                "Run its unit decnet-containment, or as root: it takes CAP_NET_RAW.",
            ) from cause

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def alive(self) -> bool:
        """Tell whether the devices are still those that were made, and up."""
        try:
            return socket.if_nametoindex(self.name) == self.index and is_up(self.name) and is_up(self.end)
        except OSError:
            return False

    def read(self) -> Iterator[bytes]:
        """Return the beginnings of the frames that wait, `MOST_AT_ONCE` at most."""
        for _ in range(MOST_AT_ONCE):
            try:
                frame, about = self._socket.recvfrom(SEEN_BYTES)
            except OSError:  # nothing waits, or the device went down, which `alive` tells
                break
            if about[2] != socket.PACKET_OUTGOING:
                yield frame
        self._count_lost()

    def close(self) -> None:
        """Stop listening; the devices stay, for the rules point there."""
        self._socket.close()

    def _count_lost(self) -> None:
        try:
            statistics = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8)
        except OSError:
            return
        self.lost += int(struct.unpack("=II", statistics)[1])

    def _make(self, kernel: Netlink) -> None:
        doing = f"make the sink {self.name}"
        peer = _LINK.pack(0, 0, 0, 0, 0) + text(_NAME, self.end)
        veth = nested(_LINK_INFO, text(_INFO_KIND, "veth"), nested(_INFO_DATA, nested(_PEER, peer)))
        try:
            kernel.commit([_link(_NEW_LINK, REQUEST | ACK | CREATE | EXCL, 0, text(_NAME, self.name) + veth)], doing)
        except KernelRefused as refused:
            if refused.number != errno.EEXIST:
                raise
        silent = nested(_AF_SPEC, nested(_INET6, attribute(_ADDRESS_MODE, bytes([_NO_ADDRESS]))))
        for name in (self.name, self.end):
            index = socket.if_nametoindex(name)
            try:
                kernel.commit([_link(_NEW_LINK, REQUEST | ACK, index, silent)], doing)
            except KernelRefused as refused:
                if refused.number not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):  # a kernel without IPv6
                    raise
            kernel.commit([_link(_NEW_LINK, REQUEST | ACK, index, b"", up=_UP)], doing)


def remove_sink(kernel: Netlink, parent_index: int) -> None:
    """Take a sink away; one that is not there is no error."""
    name = f"snk{parent_index}"
    try:
        kernel.commit([_link(_DEL_LINK, REQUEST | ACK, 0, text(_NAME, name))], f"remove {name}")
    except KernelRefused as refused:
        if refused.number != errno.ENODEV:
            raise


def forsaken_sinks() -> list[int]:
    """Return the numbers of parents that are gone and whose sinks are there still."""
    names = [name for _, name in socket.if_nameindex()]
    numbers = {int(found[1]) for name in names if (found := re.fullmatch(r"snk([0-9]{1,9})", name))}
    return sorted(numbers - {number for number, _ in socket.if_nameindex()})


def links() -> Netlink:
    """Open a socket to the kernel's links."""
    return Netlink(0)  # NETLINK_ROUTE


def _link(kind: int, flags: int, index: int, body: bytes, *, up: int = 0) -> Message:
    return Message(kind, flags, _LINK.pack(0, 0, index, up, up) + body)
