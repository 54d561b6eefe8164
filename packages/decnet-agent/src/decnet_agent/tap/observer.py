"""Turn the kernel's records into events: commands run, credentials tried, by whom.

Only what belongs to a login session becomes an event. The decky's own daemons (init, cron, syslog, the servers
themselves) are machinery: a session is inherited, and only the servers' own program files count as servers (see
`attribution`). But a daemon does what it finds written. So once a session has written where daemons take their orders
(`_ORDERS`), all that they start from then on is that session's; and so is, anywhere, a program or a script that a
session has written. Both are told with `startup`: nobody typed them.

What a shell starts before its user saw a prompt (profile scripts) and the server's greeting helpers are told with the
field `startup`, not hidden: an attacker may have written those files.

sshd says itself who was let in. login(1) does not, but for root: so where a telnet session's process stops being the
server's, that is told as `login.succeeded`.

`interactive` is true for a line that was typed at a bash prompt, and false for a program that was executed, whether a
typed line, a script or `ssh host command` made it run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from decnet_agent.tap import procs
from decnet_agent.tap.attribution import SERVER_NAMES, SERVERS, SESSIONS, Process, ProcessTable, Session
from decnet_agent.tap.decoding import Flow, Record, arguments, command_line, decode, readable, typed_line
from decnet_agent.tap.programs import PAM_USER, Kind
from decnet_agent.tap.remembered import BYTES, PLAIN, Codec, Remembered
from decnet_core.events import Event, EventType, Trust

MAX_SESSIONS = 10_000
"""Sessions whose user's name is remembered, the latest ones."""

_FAKE_PASSWORD = b"\b\n\r\x7fINCORRECT"
"""What OpenSSH gives PAM, repeated to the typed length, for a user that does not exist or may not log in."""

_LOGIN_RECORDS = frozenset({"/run/utmp", "/var/log/wtmp", "/var/log/lastlog", "/var/log/btmp", "/var/log/faillog"})
_ORDERS = (
    "/etc/cron", "/var/spool/cron/", "/etc/inittab", "/etc/init.d/", "/etc/rc", "/etc/default/", "/etc/rsyslog",
    "/etc/logrotate", "/etc/ld.so.preload", "/etc/ssh/", "/etc/pam.d/",
)  # fmt: skip
"""Where init, cron, syslog, logrotate and the SSH server read what to run."""

MAX_WRITTEN = 20_000
"""Names of written files that are remembered, the latest ones: about 4 MB."""

_LOGIN_RECORD_NS = 1_000_000_000
"""How far behind the kernel we may be when we see such a write; nobody types anything in that time."""

Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Watched:
    """A decky that is being watched."""

    name: str
    container_id: str
    pid1: int
    namespace: int


WATCHED: Codec[Watched] = Codec(
    lambda decky: [decky.name, decky.container_id, decky.pid1, decky.namespace],
    lambda data: Watched(str(data[0]), str(data[1]), int(data[2]), int(data[3])),
)


class Processes(Protocol):
    """Where that is asked which no record tells; `procs` is the one of a real machine."""

    def running(self, namespace: int) -> Iterator[Record]:
        """List the processes of a namespace, parents first."""

    def program_of(self, pid: int) -> bytes:
        """Tell which file a process runs."""

    def served_flows(self, pid: int) -> frozenset[Flow]:
        """List the connections that a process holds to ports of its own machine."""

    def served_ports(self, pid: int) -> frozenset[int]:
        """List the ports on which a process's machine listens."""

    def server_user(self, pid: int) -> str | None:
        """Tell whom a connection's server process serves."""


_NAMES: Codec[tuple[int, bytes]] = Codec(
    lambda key: [key[0], key[1].decode("latin-1")], lambda data: (int(data[0]), data[1].encode("latin-1"))
)


class Observer:
    """What is known of all decky processes, and the events that follow from each new record.

    Args:
        emit: takes each event; source and cursor are its business.
        processes: the machine's.

    Attributes:
        tables: all that a later tap must know to go on; `restored` is to be called when they were filled.
        behind_ns: how much later than usual records and files may come, because no tap ran.
    """

    def __init__(self, emit: Emit, processes: Processes = procs) -> None:
        self._emit = emit
        self._procs = processes
        self._table = ProcessTable()
        self._deckies: dict[int, Watched] = {}
        self._users: Remembered[str, str] = Remembered("users", PLAIN, PLAIN, MAX_SESSIONS)
        self._asking: Remembered[int, bytes] = Remembered("asking", PLAIN, BYTES, MAX_SESSIONS)
        self._written: Remembered[tuple[int, bytes], Session] = Remembered("written", _NAMES, SESSIONS, MAX_WRITTEN)
        self._orders: Remembered[int, Session] = Remembered("orders", PLAIN, SESSIONS)
        self._logins: Remembered[str, int] = Remembered("logins", PLAIN, PLAIN, MAX_SESSIONS)
        """When a session's server first ran something for its user, since boot: he had logged in then."""
        self.tables = (self._table.processes, self._users, self._asking, self._written, self._orders, self._logins)
        self.behind_ns = 0

    def restored(self, deckies: Iterable[Watched]) -> None:
        """Go on from what an earlier tap knew of these deckies, whose records we get without a gap."""
        self._table.restored()
        for decky in deckies:
            self._deckies[decky.namespace] = decky

    def watch(self, decky: Watched) -> None:
        """Take in a decky and what runs in it already."""
        self._deckies[decky.namespace] = decky
        for record in self._procs.running(decky.namespace):
            self._look_at_server(self._table.found(record), record)

    def forget(self, namespace: int) -> dict[int, Process]:
        """Drop a decky; give the processes that it had, for files that are still on their way."""
        self._deckies.pop(namespace, None)
        self._orders.pop(namespace)
        for key in [key for key in self._written if key[0] == namespace]:
            self._written.pop(key)
        return self._table.forget_namespace(namespace)

    def take(self, data: bytes) -> None:
        """Take in one record of the kernel.

        Raises:
            RemoteProtocolError: it is none.
        """
        record = decode(data)
        decky = self._deckies.get(record.namespace)
        if decky is None:  # it was forgotten while the record waited
            return
        match record.kind:
            case Kind.FORKED:
                self._look_at_server(self._table.forked(record), record)
            case Kind.EXECUTED:
                self._executed(decky, record)
            case Kind.EXITED:
                self._table.exited(record)
            case Kind.PROMPTED:
                self._table.prompted(record)
            case Kind.ENTERED:
                self._entered(decky, record)
            case Kind.PAM_ITEM:
                self._pam_item(decky, record)

    def decky(self, namespace: int) -> Watched | None:
        """Tell whose a namespace is."""
        return self._deckies.get(namespace)

    def find(self, namespace: int, pid: int) -> Process | None:
        """Look a decky's process up by its pid on the host; one that ended a moment ago is still there."""
        process = self._table.find(pid)
        return process if process is not None and process.namespace == namespace else None

    def is_a_visitors(self, process: Process, path: str) -> bool:
        """Tell whether what a process wrote is a visitor's doing, and not the server's own record.

        The server writes its records of logins just before it becomes the user's shell, so by now the process may be
        that shell: what is written to those files around that moment is the server's. Anything else that the server's
        code writes for a session is its user's doing: `internal-sftp`, which root may have configured.
        """
        if process.session is None:
            return False
        if process.serving:
            return path not in _LOGIN_RECORDS
        since_server_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - process.left_server_ns
        return path not in _LOGIN_RECORDS or since_server_ns >= _LOGIN_RECORD_NS + self.behind_ns

    def event(
        self, decky: Watched, process: Process | None, event_type: EventType, fields: dict[str, str], at: datetime
    ) -> Event:
        """Make an event of a session's process, or of one that is not known."""
        session = process.session if process else None
        flow = session.flow if session else None
        return Event(
            at=at,
            decky=decky.name,
            service=session.service if session else "ssh",
            event_type=event_type,
            trust=Trust.SENSOR,
            source="",
            cursor="0",
            src_ip=flow.src_ip if flow else None,
            src_port=flow.src_port if flow else None,
            dst_ip=flow.dst_ip if flow else None,
            dst_port=flow.dst_port if flow else None,
            session=session.id if session else None,
            pid=process.decky_pid if process else None,
            fields=fields,
        )

    def named(self, process: Process, path: str) -> None:
        """Take in that a session's process has given a file a name, by writing or by moving it there."""
        if process.session is None:
            return
        key = process.namespace, path.encode("utf-8", "backslashreplace")
        self._written.put(key, process.session)
        if path.startswith(_ORDERS):
            self._orders.put(process.namespace, process.session)

    def user_of(self, process: Process) -> str | None:
        """Tell who logged in, as far as it is known."""
        if process.session is None:
            return None
        user = self._users.get(process.session.id) or self._procs.server_user(process.session.root)
        if user:
            self._remember(process.session.id, user)
        return user

    def login_fields(self, process: Process) -> dict[str, str]:
        """Tell who logged in and when, as far as it is known."""
        user, session = self.user_of(process), process.session
        login_ns = None if session is None else self._logins.get(session.id)
        told = {"user": user} if user else {}
        if login_ns is not None:
            told["login_at"] = wall_time(login_ns).isoformat(timespec="milliseconds")
        return told

    def _executed(self, decky: Watched, record: Record) -> None:
        before = self._table.current(record)
        process = self._look_at_server(self._table.executed(record), record)
        if process.session is not None and process.left_server_ns == record.at_ns:
            self._note_login(process.session.id, record.at_ns)
        if before.serving and not process.serving and not before.left_server_ns:
            self._let_in(decky, process, record)
        if process.session is None and not process.serving:
            author = self._author(record)
            process = process if author is None else self._table.adopted(process, author)
        if process.session is None or process.serving:
            return
        words = arguments(record)
        fields = {
            "command": command_line(words, cut=record.text_bytes > len(record.text)) or readable(record.file),
            "exe": readable(record.file),
            "interactive": "false",
            "uid": str(record.uid),
        }
        self._command(decky, process, fields, record)

    def _let_in(self, decky: Watched, process: Process, record: Record) -> None:
        """Tell that a telnet session's user was let in: his login shell began, and no greeting helper before it."""
        session = process.session
        if session is not None and session.service == "telnet" and record.has_terminal and record.text.startswith(b"-"):
            fields = {"user": self.user_of(process) or "", "method": "password"}
            self._emit(self.event(decky, process, EventType.LOGIN_SUCCEEDED, fields, wall_time(record.at_ns)))

    def _author(self, record: Record) -> Session | None:
        """Find the session that made the machine start a program."""
        for path in (record.file, *arguments(record)[:3]):
            author = self._written.get((record.namespace, path))
            if author is not None:
                return author
        return self._orders.get(record.namespace)

    def _entered(self, decky: Watched, record: Record) -> None:
        process = self._table.current(record)
        # A reader that is not in a session is the decky's owner at a console of the engine.
        if record.text and process.session is not None:
            fields = {"command": typed_line(record.text), "interactive": "true", "uid": str(record.uid)}
            self._command(decky, process, fields, record)

    def _command(self, decky: Watched, process: Process, fields: dict[str, str], record: Record) -> None:
        user = self.user_of(process)
        if user:
            fields["user"] = user
        if process.starting:
            fields["startup"] = "true"
        self._emit(self.event(decky, process, EventType.COMMAND_RUN, fields, wall_time(record.at_ns)))

    def _pam_item(self, decky: Watched, record: Record) -> None:
        process = self._look_at_server(self._table.current(record), record)
        if record.number == PAM_USER:
            self._asking.put(record.pid, record.text)
            if process.serving and process.session is not None:
                self._remember(process.session.id, readable(record.text))
            return
        if process.session is None or _is_fake(record.text):
            return
        fields = {
            "user": readable(self._asking.get(record.pid) or b"") or self.user_of(process) or "",
            "password": readable(record.text),
            "by": readable(record.name),
        }
        self._emit(self.event(decky, process, EventType.CREDENTIAL_TRIED, fields, wall_time(record.at_ns)))

    def _look_at_server(self, process: Process, record: Record) -> Process:
        """Find out whether a server's process serves a connection; others are not looked at.

        Which it serves was recorded when it began, if it is its standard input; else /proc knows, while it lives.
        """
        decky = self._deckies.get(record.namespace)
        if decky is None or record.name not in SERVER_NAMES:
            return process
        service = SERVERS.get(self._procs.program_of(record.pid) or record.file)
        if service is None:
            return process
        if record.flow is not None and record.flow.dst_port in self._procs.served_ports(decky.pid1):
            return self._table.connected(process, decky.container_id, {record.flow}, service)
        return self._table.connected(process, decky.container_id, self._procs.served_flows(record.pid), service)

    def _note_login(self, session: str, at_ns: int) -> None:
        if session not in self._logins:
            self._logins.put(session, at_ns)

    def _remember(self, session: str, user: str) -> None:
        if self._users.get(session) != user:
            self._users.put(session, user)


def wall_time(at_ns: int) -> datetime:
    """Tell the wall clock's time of a moment since boot; both clocks are read now, so that a set clock is followed."""
    ago = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - at_ns
    return datetime.now(UTC) - timedelta(microseconds=ago // 1000)


def _is_fake(password: bytes) -> bool:
    whole = _FAKE_PASSWORD * (len(password) // len(_FAKE_PASSWORD) + 1)
    return password != b"" and whole.startswith(password)
