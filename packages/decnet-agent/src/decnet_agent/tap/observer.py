"""Turn the kernel's records into events: commands run, credentials tried, by whom.

Only what belongs to a login session becomes an event. The decky's own daemons (init, cron, syslog, the SSH server
itself) are machinery: an attacker's process is never one of them, because a session is inherited and only the SSH
server's own program files count as the server (see `attribution`).

What a shell starts before its user saw a prompt (profile scripts) and the server's greeting helpers are told with the
field `startup`, not hidden: an attacker may have written those files.

`interactive` is true for a line that was typed at a bash prompt, and false for a program that was executed, whether a
typed line, a script or `ssh host command` made it run.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from decnet_agent.tap import procs
from decnet_agent.tap.attribution import SERVER_FILES, SERVER_NAMES, Process, ProcessTable
from decnet_agent.tap.decoding import Record, arguments, command_line, decode, readable, typed_line
from decnet_agent.tap.programs import PAM_USER, Kind
from decnet_core.events import Event, EventType, Trust

MAX_SESSIONS = 10_000
"""Sessions whose user's name is remembered, the latest ones."""

_FAKE_PASSWORD = b"\b\n\r\x7fINCORRECT"
"""What OpenSSH gives PAM, repeated to the typed length, for a user that does not exist or may not log in."""

_LOGIN_RECORDS = frozenset({"/run/utmp", "/var/log/wtmp", "/var/log/lastlog", "/var/log/btmp"})
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


class Observer:
    """What is known of all decky processes, and the events that follow from each new record.

    Args:
        emit: takes each event; source and cursor are its business.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._table = ProcessTable()
        self._deckies: dict[int, Watched] = {}
        self._users: OrderedDict[str, str] = OrderedDict()
        self._asking: OrderedDict[int, bytes] = OrderedDict()

    def watch(self, decky: Watched) -> None:
        """Take in a decky and what runs in it already."""
        self._deckies[decky.namespace] = decky
        for record in procs.running(decky.namespace):
            self._look_at_server(self._table.found(record), record)

    def forget(self, namespace: int) -> None:
        """Drop a decky."""
        self._deckies.pop(namespace, None)
        self._table.forget_namespace(namespace)

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

    def writer(self, pid: int, path: str) -> Process | None:
        """Find the process that wrote a file, if it belongs to a session and was not the server's own code.

        The server writes its records of logins just before it becomes the user's shell, so by now the process may be
        that shell: what is written to those files around that moment is the server's.
        """
        process = self._table.find(pid)
        if process is None or process.session is None or process.serving:
            return None
        since_server_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - process.left_server_ns
        return None if path in _LOGIN_RECORDS and since_server_ns < _LOGIN_RECORD_NS else process

    def event(
        self, decky: Watched, process: Process, event_type: EventType, fields: dict[str, str], at: datetime
    ) -> Event:
        """Make an event of a session's process."""
        flow = process.session.flow if process.session else None
        return Event(
            at=at,
            decky=decky.name,
            service="ssh",
            event_type=event_type,
            trust=Trust.SENSOR,
            source="",
            cursor="0",
            src_ip=flow.src_ip if flow else None,
            src_port=flow.src_port if flow else None,
            dst_ip=flow.dst_ip if flow else None,
            dst_port=flow.dst_port if flow else None,
            session=process.session.id if process.session else None,
            pid=process.decky_pid,
            fields=fields,
        )

    def user_of(self, process: Process) -> str | None:
        """Tell who logged in, as far as it is known."""
        if process.session is None:
            return None
        user = self._users.get(process.session.id) or procs.server_user(process.session.root)
        if user:
            self._remember(process.session.id, user)
        return user

    def _executed(self, decky: Watched, record: Record) -> None:
        process = self._look_at_server(self._table.executed(record), record)
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
        self._emit(self.event(decky, process, EventType.COMMAND_RUN, fields, _when(record.at_ns)))

    def _pam_item(self, decky: Watched, record: Record) -> None:
        process = self._look_at_server(self._table.current(record), record)
        if record.number == PAM_USER:
            self._asking[record.pid] = record.text
            if len(self._asking) > MAX_SESSIONS:
                self._asking.popitem(last=False)
            if process.serving and process.session is not None:
                self._remember(process.session.id, readable(record.text))
            return
        if process.session is None or _is_fake(record.text):
            return
        fields = {
            "user": readable(self._asking.get(record.pid, b"")) or self.user_of(process) or "",
            "password": readable(record.text),
            "by": readable(record.name),
        }
        self._emit(self.event(decky, process, EventType.CREDENTIAL_TRIED, fields, _when(record.at_ns)))

    def _look_at_server(self, process: Process, record: Record) -> Process:
        """Find out whether an SSH server's process serves a connection; others are not looked at."""
        decky = self._deckies.get(record.namespace)
        if decky is None or record.name not in SERVER_NAMES or procs.program_of(record.pid) not in SERVER_FILES:
            return process
        return self._table.connected(process, decky.container_id, procs.served_flows(record.pid))

    def _remember(self, session: str, user: str) -> None:
        self._users[session] = user
        self._users.move_to_end(session)
        if len(self._users) > MAX_SESSIONS:
            self._users.popitem(last=False)


def _is_fake(password: bytes) -> bool:
    whole = _FAKE_PASSWORD * (len(password) // len(_FAKE_PASSWORD) + 1)
    return password != b"" and whole.startswith(password)


def _when(at_ns: int) -> datetime:
    """Tell the wall clock's time of a moment since boot; both clocks are read now, so that a set clock is followed."""
    ago = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - at_ns
    return datetime.now(UTC) - timedelta(microseconds=ago // 1000)
