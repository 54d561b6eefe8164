"""What the kernel says of an interface in our own network namespace; /sys may show another's.

Source: netdevice(7).
"""

from __future__ import annotations

import fcntl
import socket
import struct

from decnet_core.errors import Unavailable

_SIOCGIFFLAGS, _SIOCGIFHWADDR = 0x8913, 0x8927
_REQUEST = struct.Struct("=16sH14s8x")
_UP = 0x1


def index_of(name: str) -> int:
    """Return the kernel's number of an interface.

    Raises:
        Unavailable: it is not there.
    """
    try:
        return socket.if_nametoindex(name)
    except OSError as cause:
        raise Unavailable(
            f"There is no interface {name}", "Bring it up, or set interface; deckies wait for it."
        ) from cause


def interfaces() -> list[str]:
    """Return the names of all interfaces."""
    return [name for _, name in socket.if_nameindex()]


def hardware_address(name: str) -> str:
    """Return an interface's MAC.

    Raises:
        Unavailable: it is not there.
    """
    return _ask(name, _SIOCGIFHWADDR)[1][:6].hex(":")


def is_up(name: str) -> bool:
    """Tell whether an interface is there and up."""
    try:
        return bool(_ask(name, _SIOCGIFFLAGS)[0] & _UP)
    except Unavailable:
        return False


def _ask(name: str, request: int) -> tuple[int, bytes]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            answer = fcntl.ioctl(channel, request, _REQUEST.pack(name.encode(), 0, b""))
        except OSError as cause:
            raise Unavailable(f"There is no interface {name}", "Bring it up, or set interface.") from cause
    _, number, rest = _REQUEST.unpack(answer)
    return number, rest
