"""Ask /proc what the kernel's records do not tell: connections of a server's process, what ran before we came.

Every answer may be missing because the process is gone; that is an empty answer, never an error. Files under /proc
that an attacker's process can fill (command lines) are read with a bound.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from decnet_agent.tap.decoding import Flow, Record
from decnet_agent.tap.programs import Kind

MAX_TABLE_BYTES = 4 << 20
"""One namespace's socket table: 25,000 connections."""
MAX_DESCRIPTORS = 1024

_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_ESTABLISHED, _CLOSE_WAIT, _LISTEN = "01", "08", "0A"
_TITLE = re.compile(rb"sshd(?:-session)?: ([^\0 @]{1,64})(?: \[priv\]|@)")
_NOT_USERS = frozenset({b"unknown", b"/usr/sbin/sshd"})


def namespace_of(pid: int) -> int | None:
    """Tell a process's pid namespace by its number."""
    try:
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino
    except OSError:
        return None


def mount_of(fd: int) -> int | None:
    """Tell through which mount an open file of ours was opened, by its id; see proc_pid_fdinfo(5)."""
    for line in _read(f"/proc/self/fdinfo/{fd}", 4096).splitlines():
        name, _, value = line.partition(b":")
        if name == b"mnt_id" and value.strip().isdigit():
            return int(value)
    return None


def served_flows(pid: int) -> frozenset[Flow]:
    """List the connections that a process holds to ports on which its own network namespace listens."""
    sockets = _sockets(pid)
    if not sockets:
        return frozenset()
    rows = [*_tcp_rows(pid, "tcp"), *_tcp_rows(pid, "tcp6")]
    listening = _listening(rows)
    return frozenset(
        Flow(remote[0], remote[1], local[0], local[1])
        for local, remote, state, inode in rows
        if inode in sockets and state in (_ESTABLISHED, _CLOSE_WAIT) and local[1] in listening
    )


def served_ports(pid: int) -> frozenset[int]:
    """List the ports on which a process's network namespace listens."""
    return frozenset(_listening([*_tcp_rows(pid, "tcp"), *_tcp_rows(pid, "tcp6")]))


def server_user(pid: int) -> str | None:
    """Read the user's name from the title that a connection's server process gives itself."""
    match = _TITLE.match(_read(f"/proc/{pid}/cmdline", 256))
    return match[1].decode("utf-8", "backslashreplace") if match and match[1] not in _NOT_USERS else None


def program_of(pid: int) -> bytes:
    """Tell which file a process runs, as its path in the decky; empty when that cannot be told."""
    try:
        return os.fsencode(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return b""


def running(namespace: int) -> Iterator[Record]:
    """List the processes of a namespace as if each had just been forked, parents first."""
    found: list[Record] = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and namespace_of(int(entry.name)) == namespace:
            record = _describe(int(entry.name), namespace)
            if record is not None:
                found.append(record)
    starts = {record.pid: record.started_ns for record in found}
    for record in sorted(found, key=lambda each: (each.started_ns, each.pid)):
        yield replace(record, parent_started_ns=starts.get(record.parent, 0))


def _describe(pid: int, namespace: int) -> Record | None:
    before, _, after = _read(f"/proc/{pid}/stat", 4096).rpartition(b")")
    fields = after.split()
    status = dict(line.partition(b":")[::2] for line in _read(f"/proc/{pid}/status", 8192).splitlines())
    if len(fields) < 20 or b"NSpid" not in status or b"Uid" not in status:
        return None
    pids = status[b"NSpid"].split()
    return Record(
        kind=Kind.FORKED,
        namespace=namespace,
        at_ns=0,
        pid=pid,
        decky_pid=int(pids[1]) if len(pids) > 1 else pid,
        parent=int(fields[1]),
        uid=int(status[b"Uid"].split()[1]),
        started_ns=int(fields[19]) * _NS_PER_TICK,
        parent_started_ns=0,
        name=before.partition(b"(")[2],
        has_terminal=fields[4] != b"0",
        file=program_of(pid),
    )


def _sockets(pid: int) -> set[str]:
    found: set[str] = set()
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for count, entry in enumerate(entries):
                if count == MAX_DESCRIPTORS:
                    break
                try:
                    target = str(Path(entry.path).readlink())
                except OSError:
                    continue
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    except OSError:
        pass
    return found


_Address = tuple[str, int]
_Row = tuple[_Address, _Address, str, str]


def _listening(rows: Iterable[_Row]) -> set[int]:
    return {local[1] for local, _, state, _ in rows if state == _LISTEN}


def _tcp_rows(pid: int, table: str) -> Iterator[_Row]:
    for line in _read(f"/proc/{pid}/net/{table}", MAX_TABLE_BYTES).decode("ascii", "replace").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9:
            yield _address(fields[1]), _address(fields[2]), fields[3], fields[9]


def _address(text: str) -> _Address:
    """Read the kernel's form: 32-bit words in the host's order (all our architectures are little-endian)."""
    words, _, port = text.partition(":")
    raw = b"".join(bytes.fromhex(words[at : at + 8])[::-1] for at in range(0, len(words), 8))
    if len(raw) == 4:
        return str(IPv4Address(raw)), int(port, 16)
    address = IPv6Address(raw)
    return str(address.ipv4_mapped or address), int(port, 16)


def _read(path: str, limit: int) -> bytes:
    try:
        with Path(path).open("rb", buffering=0) as file:
            parts = []
            while limit > 0 and (part := file.read(min(limit, 1 << 16))):
                parts.append(part)
                limit -= len(part)
            return b"".join(parts)
    except OSError:
        return b""
