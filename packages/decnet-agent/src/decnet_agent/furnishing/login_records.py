"""Who logged in before: records of wtmp(5), as `last` shows them.

Source: glibc's bits/utmp.h, struct utmp of 384 bytes with 32-bit times on every 64-bit Linux of Debian.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

_UTMP = struct.Struct("<hxxi32s4s32s256shhiii4s12x20x")
_USER_PROCESS, _DEAD_PROCESS = 7, 8
_LINE = b"pts/0"


@dataclass(frozen=True, slots=True)
class Visit:
    """One login by terminal, from an IPv4 address; times in Unix seconds."""

    user: str
    host: str
    began_at: int
    ended_at: int
    pid: int


def wtmp(visits: Sequence[Visit]) -> bytes:
    """Write visits in the order of time, as after a month's rotation: without a boot before them."""
    records: list[tuple[int, bytes]] = []
    for visit in visits:
        opened = _record(_USER_PROCESS, visit, visit.began_at)
        closed = _record(_DEAD_PROCESS, visit, visit.ended_at)
        records += [(visit.began_at, opened), (visit.ended_at, closed)]
    return b"".join(record for _, record in sorted(records, key=lambda dated: dated[0]))


def _record(kind: int, visit: Visit, at: int) -> bytes:
    """Write one record; of an end, login leaves the line and the process alone."""
    open_ = kind == _USER_PROCESS
    texts = (b"ts/0", visit.user.encode(), visit.host.encode()) if open_ else (b"", b"", b"")
    address = socket.inet_aton(visit.host) if open_ else bytes(4)
    return _UTMP.pack(kind, visit.pid, _LINE, *texts, 0, 0, 0, at, 0, address)
