"""Who did it: from a process to the login session that it belongs to. Pure: facts in, answers out.

A table of processes follows every fork, exec and exit in the deckies. A child belongs to its parent's session, and
stays in it when the parent is gone, when it becomes a daemon and when it takes another name: nothing that a process
does to itself changes where it came from.

A session begins where a server's process (`SERVERS`) holds an established connection to a port that its machine listens
on: the server's child for one connection. So a server that an attacker restarts from within a session still gives each
later visitor a session of their own; and a process that only calls itself `sshd` and connects outward gives none.

Marks that a process carries and hands to its children:
- `serving`: still the server's own code: sshd and its helpers, or what inetd starts for telnet, down to login. It is
  lost for ever at the first exec of anything but the server's files.
- `starting`: a login shell before its first prompt, and what it runs (profile scripts); the server's greeting helpers.

Bounded: the oldest ended processes are forgotten first, then the oldest of all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from decnet_agent.tap.decoding import Flow, Record, arguments, readable
from decnet_agent.tap.remembered import PLAIN, Codec, Remembered

MAX_PROCESSES = 65_536
"""Twice what 100 deckies of 300 processes hold; about 40 MB if a flood fills it."""
MAX_ENDED = 16_384
"""Ended processes that are kept for file events which are still on their way: as many as the kernel's queue holds."""
LINEAGE = 6
"""Names in a writer's chain: process, shell, and the server's few."""

SERVERS: Mapping[bytes, str] = MappingProxyType(
    {
        b"/usr/sbin/sshd": "ssh",
        b"/usr/lib/openssh/sshd-session": "ssh",
        b"/usr/lib/openssh/sshd-auth": "ssh",
        b"/usr/sbin/tcpd": "telnet",
        b"/usr/sbin/telnetd": "telnet",
        b"/bin/login": "telnet",
        b"/usr/bin/login": "telnet",
    }
)
"""The files whose code serves a connection, and the service that they are of; contracts name the same."""
SERVER_FILES = frozenset(SERVERS)
SERVER_NAMES = frozenset(path.rpartition(b"/")[2] for path in SERVERS)

_TICK_NS = 10_000_000
"""/proc tells start times in hundredths of a second on every Linux; the kernel's records know more."""

_GREETING = (b"sh", b"-c", b"/usr/bin/env -i PATH=")
"""How pam_motd runs the update-motd scripts (Linux-PAM 1.5)."""


@dataclass(frozen=True, slots=True)
class Session:
    """One connection to a decky's server and all that came of it."""

    id: str
    flow: Flow
    root: int
    """The connection's server process: its pid on the host."""
    service: str = "ssh"


@dataclass(frozen=True, slots=True)
class Process:
    """A process in a decky. Pids are the host's, but for `decky_pid`."""

    pid: int
    decky_pid: int
    started_ns: int
    namespace: int
    uid: int
    lineage: tuple[bytes, ...]
    """Its own name first, then its parents' as far as `LINEAGE`."""
    session: Session | None = None
    serving: bool = False
    starting: bool = False
    ended: bool = False
    left_server_ns: int = 0
    """When its first program that is not the server's began, since boot."""


def _write_session(session: Session) -> Any:
    return [session.id, *astuple(session.flow), session.root, session.service]


def _read_session(data: Any) -> Session:
    identity, *flow, root, service = data if isinstance(data[-1], str) else [*data, "ssh"]  # the latter until 0.1
    return Session(str(identity), Flow(*flow), int(root), str(service))


def _write_process(process: Process) -> Any:
    lineage = [name.decode("latin-1") for name in process.lineage]
    session = None if process.session is None else _write_session(process.session)
    flags = [process.serving, process.starting, process.ended, process.left_server_ns]
    numbers = [process.pid, process.decky_pid, process.started_ns, process.namespace, process.uid]
    return [*numbers, lineage, session, *flags]


def _read_process(data: Any) -> Process:
    pid, decky_pid, started_ns, namespace, uid, lineage, session, *flags = data
    names = tuple(name.encode("latin-1") for name in lineage)
    found = None if session is None else _read_session(session)
    return Process(pid, decky_pid, started_ns, namespace, uid, names, found, *flags)


SESSIONS = Codec(_write_session, _read_session)
PROCESSES = Codec(_write_process, _read_process)


class ProcessTable:
    """What is known of the processes in all watched deckies.

    Attributes:
        processes: by their pid; what a later tap must know.
    """

    def __init__(self) -> None:
        self.processes: Remembered[int, Process] = Remembered("processes", PLAIN, PROCESSES)
        self._ended: OrderedDict[int, None] = OrderedDict()

    def restored(self) -> None:
        """Take in that `processes` were filled from what an earlier tap knew."""
        self._ended = OrderedDict((pid, None) for pid, process in self.processes.items() if process.ended)

    def find(self, pid: int) -> Process | None:
        """Look a process up by its pid on the host; one that ended a moment ago is still there."""
        return self.processes.get(pid)

    def forked(self, record: Record) -> Process:
        """Take in a new process."""
        parent = self._parent(record)
        lineage = (record.name, *(parent.lineage if parent else ()))[:LINEAGE]
        process = Process(
            record.pid,
            record.decky_pid,
            record.started_ns,
            record.namespace,
            record.uid,
            lineage,
            session=parent.session if parent else None,
            serving=parent.serving if parent else record.name in SERVER_NAMES,
            starting=parent.starting if parent else False,
        )
        return self._keep(process)

    def found(self, record: Record) -> Process:
        """Take in a process that ran before we came; its parents must have been taken in before it."""
        known = self.processes.get(record.pid)
        if known is not None and known.session is not None and _same_start(known.started_ns, record.started_ns):
            return known  # an earlier tap saw where it comes from
        process = self.forked(record)
        return self._keep(replace(process, serving=record.file in SERVER_FILES))

    def executed(self, record: Record) -> Process:
        """Take in that a process runs another program now."""
        before = self._current(record)
        words = arguments(record)
        serving = record.file in SERVER_FILES and (before.serving or before.session is None)
        starting = before.starting
        if before.serving and before.session is not None and not serving:
            login_shell = bool(words) and words[0].startswith(b"-") and record.has_terminal
            greeting = tuple(words[:2]) == _GREETING[:2] and len(words) > 2 and words[2].startswith(_GREETING[2])
            starting = login_shell or greeting
        return self._keep(
            replace(
                before,
                uid=record.uid,
                lineage=(record.name, *before.lineage[1:]),
                serving=serving,
                starting=starting,
                left_server_ns=record.at_ns if before.serving and not serving else before.left_server_ns,
            )
        )

    def prompted(self, record: Record) -> None:
        """Take in that a shell asks its user for a line: whatever it starts from now on was asked for."""
        process = self._current(record)
        if process.starting:
            self._keep(replace(process, starting=False))

    def exited(self, record: Record) -> Process | None:
        """Take in the end of a process; it is forgotten a little later."""
        process = self.processes.get(record.pid)
        if process is None or not _same_start(process.started_ns, record.started_ns):
            return None
        process = self._keep(replace(process, ended=True))
        self._ended[record.pid] = None
        while len(self._ended) > MAX_ENDED:
            self._forget_ended()
        return process

    def current(self, record: Record) -> Process:
        """Give the process that a record is about; one that was never seen before belongs to its parent's session."""
        return self._current(record)

    def connected(self, process: Process, container_id: str, flows: Iterable[Flow], service: str = "ssh") -> Process:
        """Take in which connections a process of a service's server holds to ports of its own machine."""
        found = sorted(set(flows), key=lambda flow: (flow.dst_port, flow.src_ip, flow.src_port))
        if not found or (process.session is not None and process.session.flow in found):
            return process
        identity = f"{container_id}\0{process.decky_pid}\0{process.started_ns // _TICK_NS}"
        session = Session(blake2b(identity.encode(), digest_size=8).hexdigest(), found[0], process.pid, service)
        return self._keep(replace(process, session=session, serving=True, starting=False))

    def adopted(self, process: Process, session: Session) -> Process:
        """Take in that a process of the machine's own does what a session has left for it to do."""
        return self._keep(replace(process, session=session, starting=True))

    def forget_namespace(self, namespace: int) -> dict[int, Process]:
        """Drop a decky's processes, and give them."""
        gone = {pid: process for pid, process in self.processes.items() if process.namespace == namespace}
        for pid in gone:
            self.processes.pop(pid)
            self._ended.pop(pid, None)
        return gone

    def __len__(self) -> int:
        return len(self.processes)

    def _current(self, record: Record) -> Process:
        process = self.processes.get(record.pid)
        if process is None or not _same_start(process.started_ns, record.started_ns):
            process = self.forked(record)
        return process

    def _parent(self, record: Record) -> Process | None:
        parent = self.processes.get(record.parent)
        if parent is None or parent.namespace != record.namespace:
            return None
        return parent if _same_start(parent.started_ns, record.parent_started_ns) else None

    def _keep(self, process: Process) -> Process:
        self.processes.put(process.pid, process)
        if not process.ended:
            self._ended.pop(process.pid, None)
        while len(self.processes) > MAX_PROCESSES:
            if self._ended:
                self._forget_ended()
            else:
                self.processes.pop_oldest()
        return process

    def _forget_ended(self) -> None:
        pid, _ = self._ended.popitem(last=False)
        self.processes.pop(pid)


def writer(process: Process) -> str:
    """Name a process and its parents, youngest first."""
    return " < ".join(readable(name) for name in process.lineage)


def _same_start(left_ns: int, right_ns: int) -> bool:
    return left_ns // _TICK_NS == right_ns // _TICK_NS
