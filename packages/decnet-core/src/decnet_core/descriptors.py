"""Leave open files with whoever supervises us, and find them again after a crash: sd_notify(3)'s FDSTORE.

What a process holds in the kernel goes with it, unless somebody else holds it too. A child sends descriptors with a
name to its notification socket; they stay open there while it is dead, and its successor begins with them:

    keep(name, fds) ──▶ systemd's store, or a supervisor's `DescriptorStore` ──▶ inherited() in the next process

systemd hands them back as LISTEN_FDS says (descriptors from 3 on, names in LISTEN_FDNAMES, for the process LISTEN_PID).
Our own supervisor cannot number descriptors that it has open itself, so it lets the child inherit them under the
numbers that they have and says which is which in `INHERITED` (and, because Linux bounds one variable at 128 KiB, in
`INHERITED_2` and so on). To the child it is the same.

A store is bounded, takes what its child's own process sent and nothing else (`notify.Notices`), belongs to one child,
and is closed with its supervisor: whoever stops the supervisor (or, in systemd, the unit) leaves nothing open behind.

Source: sd_notify(3) (FDSTORE, FDSTOREREMOVE, FDNAME, FDPOLL), sd_listen_fds(3), systemd.service(5)
(FileDescriptorStoreMax).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence

import structlog

from decnet_core.notify import notify

INHERITED = "DECNET_INHERITED"
"""Environment variable: `number=name`, colon-separated."""

VARIABLE_BYTES = 64 << 10
"""How much one such variable holds: half of what Linux takes (MAX_ARG_STRLEN, linux/binfmts.h)."""

MAX_NAME = 255
"""Characters of a name, as in systemd."""

_FIRST_LISTEN_FD = 3

log = structlog.get_logger()


def supervised() -> bool:
    """Tell whether there is anybody to ask."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def keep(name: str, *fds: int) -> bool:
    """Ask our supervisor to hold descriptors too; False when nobody does.

    Without FDPOLL=0 systemd would drop a descriptor that reports an error or a hang-up.
    """
    return notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fds)


def let_go(name: str) -> bool:
    """Ask our supervisor to close all descriptors of a name."""
    return notify(f"FDSTOREREMOVE=1\nFDNAME={name}")


def inherited() -> list[tuple[str, int]]:
    """Give the descriptors that were kept for us, once; our own children do not inherit them."""
    found = [*_from_systemd(), *_from_supervisor()]
    for _, fd in found:
        os.set_inheritable(fd, False)
    return found


class DescriptorStore:
    """What one child has left with us.

    Args:
        bound: the most descriptors that are held; 0 takes none.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._kept: dict[str, list[int]] = {}
        self._count = 0
        if bound:
            _allow_descriptors(bound)

    def keep(self, name: str, fds: Sequence[int]) -> None:
        """Hold descriptors, which are ours from now on; what is beyond the bound or has no proper name is closed."""
        for fd in fds:
            if self._count < self._bound and is_name(name):
                self._kept.setdefault(name, []).append(fd)
                self._count += 1
            else:
                os.close(fd)
                log.warning("descriptor.refused", bound=self._bound)

    def let_go(self, name: str) -> None:
        """Close the descriptors of a name."""
        for fd in self._kept.pop(name, []):
            os.close(fd)
            self._count -= 1

    @property
    def fds(self) -> tuple[int, ...]:
        """What the child's next process is to inherit, under the same numbers."""
        return tuple(fd for fds in self._kept.values() for fd in fds)

    def environment(self) -> dict[str, str]:
        """Tell that process which is which."""
        kept = [f"{fd}={name}" for name, fds in self._kept.items() for fd in fds]
        found: dict[str, str] = {}
        while kept:
            count, room = 0, VARIABLE_BYTES
            while count < len(kept) and (room := room - len(kept[count]) - 1) >= 0:
                count += 1
            found[_variable(len(found) + 1)] = ":".join(kept[:count])
            del kept[:count]
        return found

    def close(self) -> None:
        """Close all."""
        for name in list(self._kept):
            self.let_go(name)


def allow_descriptors(wanted: int) -> int:
    """Make room for so many open files, as far as we may; systemd and shells allow 1024 until a program asks for more.

    Returns:
        how many are allowed now, no more than were wanted.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def is_name(text: str) -> bool:
    """Tell whether a text may name descriptors: printable ASCII without a colon, as in systemd."""
    return 0 < len(text) <= MAX_NAME and text.isascii() and text.isprintable() and ":" not in text


def _from_systemd() -> list[tuple[str, int]]:
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if not count.isdecimal() or pid != str(os.getpid()):
        return []
    numbers = range(_FIRST_LISTEN_FD, _FIRST_LISTEN_FD + int(count))
    return [(names[index] if index < len(names) else "", fd) for index, fd in enumerate(numbers)]


def _from_supervisor() -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    number_of_variable = 1
    while (text := os.environ.pop(_variable(number_of_variable), None)) is not None:
        number_of_variable += 1
        for item in text.split(":"):
            number, _, name = item.partition("=")
            if number.isdecimal() and name:
                found.append((name, int(number)))
    return found


def _variable(number: int) -> str:
    return INHERITED if number == 1 else f"{INHERITED}_{number}"


def _allow_descriptors(more: int) -> None:
    """Make room for so many more open files, as far as we may."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        allow_descriptors(soft + more)
