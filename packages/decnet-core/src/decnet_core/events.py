"""The event: one thing that somebody did to a decky, and the catalogue of all that can be said.

An event is made once, at the sensor that saw it, and travels unchanged: as one RFC 5424 line through the worker's
event log, the shipping connection and the master's journal, and as one row in the database. Its `id` stays the same
at every hop, so that it can be traced and counted.

The line's header slots hold the time, the decky (HOSTNAME), the service (APP-NAME), the pid inside the decky (PROCID)
and the event type (MSGID). Everything else is a parameter of the SD-ELEMENT; the names in `RESERVED_PARAMS` belong to
the event itself, all others are its `fields`.

Trust: `sensor` was observed from outside of the decky (kernel, wire, engine); `guest` is text that came out of the
decky, which an attacker who is root there can write. Who the decky is was bound by the sensor in both cases: guest
text never sets `decky`, `source` or `trust`.

Exactly once: `source` names the place an event came from (a container's output, one run of a tap) and `cursor` the
position there. The id is derived from the two, and a reader of the event log can tell from them what it has already.
Cursors of one source only grow; `cursor_key` orders them.

This module does no IO and never raises for an unknown event type that came over a wire (a newer worker may know
more); `check` holds our own emitters to the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from types import MappingProxyType

from decnet_core.errors import LocalProtocolError, RemoteProtocolError
from decnet_core.syslog.rfc5424 import SyslogMessage

FACILITY_LOCAL4 = 20
"""All events: local4, which neither Debian's nor a SOC's default rules write to a console or mail."""


class Trust(StrEnum):
    """How an event is known."""

    SENSOR = "sensor"
    GUEST = "guest"


class EventType(StrEnum):
    """Every event type that our programs emit; `CATALOGUE` says what each means."""

    LOG_OPENED = "log.opened"
    GUEST_LINE = "guest.line"
    CONNECTION_OPENED = "connection.opened"
    CONNECTION_CLOSED = "connection.closed"
    LOGIN_FAILED = "login.failed"
    LOGIN_SUCCEEDED = "login.succeeded"
    SESSION_OPENED = "session.opened"
    SESSION_CLOSED = "session.closed"
    CREDENTIAL_TRIED = "credential.tried"
    COMMAND_RUN = "command.run"
    FILE_CAPTURED = "file.captured"
    EGRESS_BLOCKED = "egress.blocked"
    SESSION_RECORDED = "session.recorded"
    EVIDENCE_DROPPED = "evidence.dropped"
    WORKER_SILENT = "worker.silent"
    WORKER_HEARD = "worker.heard"
    WORKER_UNREACHABLE = "worker.unreachable"
    WORKER_REACHED = "worker.reached"


@dataclass(frozen=True, slots=True)
class EventSpec:
    """What one event type means.

    `severity` is that of RFC 5424 table 2. `required` fields stand in every event of the type, `optional` ones may.
    """

    summary: str
    severity: int
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


CATALOGUE: Mapping[EventType, EventSpec] = MappingProxyType(
    {
        EventType.LOG_OPENED: EventSpec("The collector began a new file of its event log", 6, ("generation",)),
        EventType.GUEST_LINE: EventSpec("A decky's service wrote a line that is no other event", 6),
        EventType.CONNECTION_OPENED: EventSpec("Someone connected to a service", 5),
        EventType.CONNECTION_CLOSED: EventSpec("A connection to a service ended", 6, (), ("reason", "user")),
        EventType.LOGIN_FAILED: EventSpec(
            "A login was refused", 4, ("user",), ("password", "method", "reason", "known_user")
        ),
        EventType.LOGIN_SUCCEEDED: EventSpec("A login was accepted", 3, ("user",), ("password", "method", "key")),
        EventType.SESSION_OPENED: EventSpec("A user's session began", 4, ("user",), ("by",)),
        EventType.SESSION_CLOSED: EventSpec("A user's session ended", 5, ("user",)),
        EventType.CREDENTIAL_TRIED: EventSpec(
            "A user name and password reached the decky's authentication", 4, ("user", "password"), ("by",)
        ),
        EventType.COMMAND_RUN: EventSpec(
            "A command line was entered or a program was executed",
            3,
            ("command",),
            ("interactive", "exe", "user", "uid", "cwd", "tty", "ppid", "startup"),
        ),
        EventType.FILE_CAPTURED: EventSpec(
            "A file that was written in a decky is in quarantine",
            3,
            ("path", "sha256", "size_bytes"),
            ("stored_as", "mode", "uid", "user", "login_at", "writer", "truncated", "startup"),
        ),
        EventType.SESSION_RECORDED: EventSpec(
            "What a session's terminal showed and what was typed is in quarantine, as an asciicast",
            4,
            ("sha256", "size_bytes", "started_at", "duration_secs", "terminal"),
            ("stored_as", "user", "login_at", "truncated", "missing_bytes"),
        ),
        EventType.EGRESS_BLOCKED: EventSpec(
            "A decky tried to reach somebody by itself and was kept back: told when it begins, then counted by minutes",
            3,
            ("protocol", "count"),
            ("reason", "sibling", "icmp_type", "since"),
        ),
        EventType.EVIDENCE_DROPPED: EventSpec(
            "A sensor had to give up evidence; the count says how much", 2, ("count", "reason")
        ),
        EventType.WORKER_SILENT: EventSpec(
            "Nothing came any more from a worker that should ship; told by the master", 2, ("since", "silent_secs")
        ),
        EventType.WORKER_HEARD: EventSpec(
            "A worker that was silent is heard again; told by the master", 5, ("since", "silent_secs")
        ),
        EventType.WORKER_UNREACHABLE: EventSpec(
            "A worker's agent did not answer the master several times in a row; told by the master",
            2,
            ("since", "away_secs", "reason"),
        ),
        EventType.WORKER_REACHED: EventSpec(
            "A worker's agent that was unreachable answers again; told by the master", 5, ("since", "away_secs")
        ),
    }
)

RESERVED_PARAMS = frozenset(
    {"id", "source", "cursor", "trust", "src_ip", "src_port", "dst_ip", "dst_port", "session", "nested"}
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event; see the module's text for what binds what.

    Attributes:
        at: aware UTC, microseconds.
        decky: name of the decky, bound by the sensor.
        service: service it belongs to (`ssh`), or `host` for the decky as a whole, or `decnet` for ourselves.
        event_type: an `EventType`, or a string of a newer worker.
        source, cursor: where it came from; see above.
        pid: process id inside the decky, as its own logs would show it.
        session: opaque id that ties the events of one login together, where the sensor knows it.
        fields: flat text fields, see `CATALOGUE`.
        text: the original words, if there were any.
    """

    at: datetime
    decky: str
    service: str
    event_type: str
    trust: Trust
    source: str
    cursor: str
    src_ip: str | None = None
    src_port: int | None = None
    dst_ip: str | None = None
    dst_port: int | None = None
    session: str | None = None
    pid: int | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    text: str = ""

    @property
    def id(self) -> str:
        """The event's identifier: 32 hex digits, the same for the same source and cursor."""
        return event_id(self.source, self.cursor)


def event_id(source: str, cursor: str) -> str:
    """Derive an event's identifier from where it came from: 32 hex digits."""
    return blake2b(f"{source}\0{cursor}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def cursor_key(cursor: str) -> tuple[int, ...]:
    """Order the cursors of one source: dot-separated whole numbers, compared as numbers.

    Raises:
        RemoteProtocolError: the text is no cursor.
    """
    parts = cursor.split(".")
    if len(parts) > 4 or not all(part.isascii() and part.isdigit() and len(part) <= 20 for part in parts):
        raise RemoteProtocolError("A cursor is at most four whole numbers with dots between them")
    return tuple(int(part) for part in parts)


def check(event: Event) -> None:
    """Hold an event of ours to the catalogue.

    Raises:
        LocalProtocolError: unknown type, missing or undeclared field, or a field with a reserved name.
    """
    try:
        spec = CATALOGUE[EventType(event.event_type)]
    except ValueError:
        raise LocalProtocolError(f"{event.event_type} is not in the event catalogue") from None
    missing = set(spec.required) - event.fields.keys()
    unknown = event.fields.keys() - set(spec.required) - set(spec.optional)
    if missing or unknown or not RESERVED_PARAMS.isdisjoint(event.fields):
        raise LocalProtocolError(
            f"{event.event_type}: missing fields {sorted(missing)}, undeclared fields {sorted(unknown)}"
        )


def to_syslog(event: Event) -> SyslogMessage:
    """Put an event into the slots of a syslog message; `decnet_core.syslog.rfc5424.encode` makes bytes of it.

    Raises:
        LocalProtocolError: the event does not fit the catalogue.
    """
    check(event)
    params = {"id": event.id, "source": event.source, "cursor": event.cursor, "trust": event.trust.value}
    for name in ("src_ip", "src_port", "dst_ip", "dst_port", "session"):
        value = getattr(event, name)
        if value is not None:
            params[name] = str(value)
    params.update(event.fields)
    return SyslogMessage(
        facility=FACILITY_LOCAL4,
        severity=CATALOGUE[EventType(event.event_type)].severity,
        at=event.at,
        host=event.decky,
        app=event.service,
        procid="-" if event.pid is None else str(event.pid),
        msgid=event.event_type,
        params=params,
        nested=None,
        message=event.text,
    )


def from_syslog(message: SyslogMessage, *, fallback_source: str, fallback_cursor: str, received_at: datetime) -> Event:
    """Read an event out of a syslog message, also out of one that somebody else's program wrote.

    Args:
        message: decoded line.
        fallback_source, fallback_cursor: where the receiver found the line; used when the message names no
            source and cursor of its own (third-party senders).
        received_at: aware UTC; used when the message carries no time.

    Raises:
        RemoteProtocolError: a port or the trust is not what it must be.
    """
    params = dict(message.params)
    source, cursor = params.pop("source", None), params.pop("cursor", None)
    params.pop("id", None)
    if source is None or cursor is None:
        source, cursor = fallback_source, fallback_cursor
    trust = params.pop("trust", Trust.GUEST.value)
    if trust not in set(Trust):
        raise RemoteProtocolError("The trust of an event is sensor or guest")
    ports = {name: _port(params.pop(name, None)) for name in ("src_port", "dst_port")}
    return Event(
        at=message.at or received_at,
        decky=message.host,
        service=message.app,
        event_type=EventType.GUEST_LINE if message.msgid == "-" else message.msgid,
        trust=Trust(trust),
        source=source,
        cursor=cursor,
        src_ip=params.pop("src_ip", None),
        dst_ip=params.pop("dst_ip", None),
        session=params.pop("session", None),
        pid=int(message.procid) if message.procid.isascii() and message.procid.isdigit() else None,
        fields=params,
        text=message.message,
        **ports,
    )


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 0xFFFF):
        raise RemoteProtocolError("A port is a whole number up to 65535")
    return int(text)
