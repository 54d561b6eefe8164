"""Tell systemd how we are, and hear how a child of ours is: sd_notify(3) in its datagram form.

`notify` is a no-op where no manager listens. `Notices` is a manager's end, for one child: a socket with a name that
the kernel makes up in the abstract namespace, so that nothing has to be cleaned up. Anyone on the machine may send
there; who did is told by the kernel, and only the child's own word counts: that it is ready, and which descriptors it
leaves with us (`decnet_core.descriptors`). What others send along is closed.

Source: the protocol of sd_notify(3): newline-separated assignments sent to the socket that NOTIFY_SOCKET names; a
leading `@` means the abstract namespace.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

SEND_SECS = 1.0
"""A manager reads at once; one that does not must not hold our loop."""

_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid. Source: unix(7)."""

_NOTICE_BYTES = 4096
"""The longest message that is read whole, as in systemd."""

MAX_HEARD = 1024
"""Messages that are read in one turn: more than wait at any moment (net.unix.max_dgram_qlen: 10, or systemd's 512), so
that whoever sends without end holds up nobody else, and the last words of the dead are among them."""

_MAX_FDS = 253
"""Descriptors in one message. Source: unix(7), SCM_MAX_FD."""


def notify(state: str, fds: Sequence[int] = ()) -> bool:
    """Send one state, such as `READY=1` or `WATCHDOG=1`, with descriptors if any; False when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "/@":
        return False
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(SEND_SECS)
            channel.connect(address)
            about = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            channel.sendmsg([state.encode()], about)
    except OSError:
        return False
    return True


def watchdog_interval_secs() -> float | None:
    """Half of what the unit's WatchdogSec allows, or None where no watchdog is set for this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    usec = os.environ.get("WATCHDOG_USEC", "")
    return int(usec) / 2_000_000 if usec.isdecimal() and int(usec) > 0 else None


class Store(Protocol):
    """Who holds descriptors for a child."""

    def keep(self, name: str, fds: Sequence[int]) -> None:
        """Take descriptors over."""

    def let_go(self, name: str) -> None:
        """Close the descriptors of a name."""


class Notices:
    """The end of a notification socket that listens to one child; use it in a `with` block on a loop."""

    def __init__(self) -> None:
        """Bind it."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")  # autobind, unix(7): a name that nobody else has

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    @property
    def address(self) -> str:
        """What the child's NOTIFY_SOCKET shall be."""
        name: bytes = self._socket.getsockname()
        return "@" + name[1:].decode("ascii")

    def listen(self, pid: int, ready: Callable[[], None], store: Store) -> None:
        """Hear the process of this pid from now on: call `ready` each time that it says so, give `store` its files."""
        asyncio.get_running_loop().add_reader(self._socket, self.hear, pid, ready, store)

    def hear(self, pid: int, ready: Callable[[], None], store: Store) -> None:
        """Read what is there: a full socket would block whoever sends, and the dead may have sent last words."""
        room = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
        for _ in range(MAX_HEARD):
            try:
                said, about, _, _ = self._socket.recvmsg(_NOTICE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            senders = [_CREDENTIALS.unpack(data)[0] for _, kind, data in about if kind == socket.SCM_CREDENTIALS]
            fds = [fd for _, kind, data in about if kind == socket.SCM_RIGHTS for fd in _numbers(data)]
            lines = said.split(b"\n")
            name = next(
                (line[7:].decode("ascii", "replace") for line in lines if line.startswith(b"FDNAME=")), "stored"
            )
            if senders == [pid] and b"FDSTORE=1" in lines:
                store.keep(name, fds)
            else:
                for fd in fds:
                    os.close(fd)
            if senders == [pid] and b"FDSTOREREMOVE=1" in lines:
                store.let_go(name)
            if senders == [pid] and b"READY=1" in lines:
                ready()


def _numbers(data: bytes) -> array.array[int]:
    numbers = array.array("i")
    numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return numbers
