"""Read a line that came out of a decky: what its syslog says about logins, sessions and sudo.

Pure. The line is RFC 5424 as the decky's rsyslog writes it to the console; all else is a `guest.line` of its words.

What binds what: the decky and the time come from the engine, never from the line; `trust` is always guest. The rest is
what programs of the decky said, and whoever has a shell there can say anything (`logger -t sshd`).

An attacker who has none yet chooses his user name, though, and it stands in the middle of sshd's sentences. So they
are read from their ends: sshd writes the address last, and a user that the machine knows has no space in his name.
A sentence that can be read in two ways is a guest.line.

A login by telnet that succeeded is told by the tap (login(1) says it of root alone, and pam_unix says no address).

Source: OpenSSH 9.2 auth.c (auth_log), packet.c, session.c; pam_unix; sudo's logging.c; shadow 4.13 login.c; tcpd.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address

from decnet_core.errors import RemoteProtocolError
from decnet_core.events import Event, EventType, Trust
from decnet_core.syslog.rfc5424 import decode

MAX_TEXT_CHARS = 8192
MAX_FIELD_CHARS = 1024
HOST_SERVICE = "host"
"""The service of lines that belong to the decky as a whole."""

_HEADER = re.compile(rb"<\d{1,3}>1 \d{4}-\d\d-\d\dT")

SERVICE_OF_PROGRAM = {
    "sshd": "ssh",
    "sshd-session": "ssh",
    "sftp-server": "ssh",
    "login": "telnet",
    "telnetd": "telnet",
}
"""Whose lines are told as of a service; contracts name the same."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one sentence means."""

    event_type: EventType
    fields: Mapping[str, str] = field(default_factory=dict)
    src_ip: str | None = None
    src_port: int | None = None
    dst_ip: str | None = None
    dst_port: int | None = None


def read_line(line: bytes, *, at: datetime, decky: str, source: str, cursor: str) -> Event:
    """Make the event of one line.

    Args:
        line: as it came, without a line end; invalid UTF-8 survives in the text.
        at: when the engine took it, aware UTC.
        decky, source, cursor: as the collector knows them.
    """
    # Init's own words have no line end at times, and a record follows in the same line.
    glued = _HEADER.search(line)
    try:
        message = decode(line if glued is None else line[glued.start() :])
    except RemoteProtocolError:
        text = line.decode("utf-8", "surrogateescape")[:MAX_TEXT_CHARS]
        return Event(at, decky, HOST_SERVICE, EventType.GUEST_LINE, Trust.GUEST, source, cursor, text=text)
    words = message.message.strip()[:MAX_TEXT_CHARS]
    program = message.app.rpartition("/")[2]
    # A daemon's sentence has no line end: rsyslog escapes them. One comes in only by a `nested` that a guest made up.
    said = _OTHER if "\n" in words else _READERS.get(program, _read_other)(words)
    procid = message.procid
    return Event(
        at=at,
        decky=decky,
        service=SERVICE_OF_PROGRAM.get(program, HOST_SERVICE),
        event_type=said.event_type,
        trust=Trust.GUEST,
        source=source,
        cursor=cursor,
        src_ip=said.src_ip,
        src_port=said.src_port,
        dst_ip=said.dst_ip,
        dst_port=said.dst_port,
        pid=int(procid) if procid.isascii() and procid.isdigit() and len(procid) <= 10 else None,
        fields={name: value[:MAX_FIELD_CHARS] for name, value in said.fields.items()},
        text=f"{program}: {words}",
    )


_PEER = r"(?P<ip>[0-9A-Fa-f.:]{2,45}(?:%\S{1,15})?) port (?P<port>\d{1,5})"
_KEY = r"(?P<key>[A-Z0-9-]{2,24} SHA256:[A-Za-z0-9+/]{43})"

# auth_log: "<result> <method> for [invalid user ]<user> from <ip> port <port> ssh2[: <key>]". The user of the second
# form may hold any of these words; the greedy match ends at the last address, which is sshd's own.
_AUTH_KNOWN = re.compile(
    rf"(?P<result>Accepted|Failed) (?P<method>\S{{1,40}}) for (?P<user>\S+) from {_PEER} ssh2(?:: (?P<key>.+))?"
)
_AUTH_INVALID = re.compile(
    rf"(?P<result>Failed) (?P<method>\S{{1,40}}) for invalid user (?P<user>.*) from {_PEER} ssh2(?:: {_KEY})?"
)
_INVALID_USER = re.compile(rf"Invalid user (?P<user>.*) from {_PEER}")
_OPENED = re.compile(rf"Connection from {_PEER} on (?P<own>[0-9A-Fa-f.:]{{2,45}}) port (?P<own_port>\d{{1,5}})\b.*")
_CLOSED = re.compile(
    r"(?P<reason>Connection closed by|Connection reset by|Disconnected from|Received disconnect from)"
    rf"(?: (?P<kind>user|authenticating user|invalid user) (?P<user>.*))? {_PEER}(?P<rest>:\d{{1,4}}: .*| \[preauth\])?"
)
_SESSION = re.compile(
    r"pam_unix\((?P<service>[\w.-]+):session\): session (?P<way>opened|closed) for user (?P<user>[^\s(]+)"
    r"(?:\(uid=\d+\))?(?: by (?P<by>.*))?"
)
# The user's name is in the middle, and login writes UNKNOWN for one that the machine does not know.
_LOGIN_FAILED = re.compile(
    r"FAILED LOGIN \(\d{1,9}\) on '/dev/[a-z0-9/]{1,32}' from '(?P<ip>[0-9A-Fa-f.:]{2,45})' "
    r"FOR '(?P<user>[^']*)', [^',]*"
)
_CONNECT = re.compile(r"connect from \S{1,255} \((?P<ip>[0-9A-Fa-f.:]{2,45})\)")
# The atomic groups take the first "USER=" and "COMMAND=" for good: trying each of a thousand takes 50 ms, and any
# user of a decky can log such lines. A folder with such a name makes the sentence ambiguous, hence a guest.line.
_SUDO = re.compile(
    r"(?P<user>\S+) : (?:(?P<problem>[^;]*) ; )?TTY=(?P<tty>\S+) ; PWD=(?>(?P<cwd>.*?) ; USER=)(?P<target>\S+) ; "
    r"(?:GROUP=\S+ ; )?(?>(?:ENV=.*? ; )?COMMAND=)(?P<command>.*)",
    re.DOTALL,
)

_OTHER = Said(EventType.GUEST_LINE)


def _read_sshd(words: str) -> Said:
    if words.startswith(("Failed ", "Accepted ")):
        return _read_auth(words)
    if match := _OPENED.fullmatch(words):
        own_port = _port(match["own_port"])
        return _from_peer(EventType.CONNECTION_OPENED, match, {}, dst_ip=match["own"], dst_port=own_port)
    if match := _CLOSED.fullmatch(words):
        reason = match["reason"].lower().removesuffix(" by").removesuffix(" from")
        # "Received disconnect" is followed by "Disconnected from" for the same connection: that one counts.
        if reason == "received disconnect":
            return _from_peer(EventType.GUEST_LINE, match, {})
        fields = {"reason": reason}
        if match["user"] is not None:
            fields["user"] = match["user"]
        return _from_peer(EventType.CONNECTION_CLOSED, match, fields)
    if match := _INVALID_USER.fullmatch(words):
        return _from_peer(EventType.GUEST_LINE, match, {})
    return _read_other(words)


def _read_auth(words: str) -> Said:
    invalid = words.startswith("Failed ") and _AUTH_INVALID.fullmatch(words)
    match = invalid or _AUTH_KNOWN.fullmatch(words)
    if not match:
        return _OTHER
    fields = {"user": match["user"], "method": match["method"]}
    if match["result"] == "Accepted":
        if match["key"]:
            fields["key"] = match["key"]
        return _from_peer(EventType.LOGIN_SUCCEEDED, match, fields)
    fields["known_user"] = "false" if invalid else "true"
    return _from_peer(EventType.LOGIN_FAILED, match, fields)


def _read_login(words: str) -> Said:
    match = _LOGIN_FAILED.fullmatch(words)
    if match is None or not _is_address(match["ip"]):
        return _read_other(words)
    known = match["user"] != "UNKNOWN"
    fields = {"user": match["user"], "method": "password", "known_user": "true" if known else "false"}
    return Said(EventType.LOGIN_FAILED, fields, match["ip"])


def _read_telnetd(words: str) -> Said:
    match = _CONNECT.fullmatch(words)
    if match is None or not _is_address(match["ip"]):
        return _OTHER
    return Said(EventType.CONNECTION_OPENED, {}, match["ip"])


def _read_sudo(words: str) -> Said:
    match = _SUDO.fullmatch(words)
    if match is None:
        return _read_other(words)
    if match["problem"]:  # a wrong password, or not in sudoers: the command did not run
        return _OTHER
    return Said(EventType.COMMAND_RUN, {name: match[name] for name in ("command", "user", "cwd", "tty")})


def _read_other(words: str) -> Said:
    match = _SESSION.fullmatch(words)
    if match is None:
        return _OTHER
    if match["way"] == "closed":
        return Said(EventType.SESSION_CLOSED, {"user": match["user"]})
    fields = {"user": match["user"]}
    if match["by"]:
        fields["by"] = match["by"]
    return Said(EventType.SESSION_OPENED, fields)


_READERS: Mapping[str, Callable[[str], Said]] = {
    "sshd": _read_sshd,
    "sshd-session": _read_sshd,  # OpenSSH 9.8 and later
    "login": _read_login,
    "telnetd": _read_telnetd,
    "sudo": _read_sudo,
}


def _from_peer(
    event_type: EventType,
    match: re.Match[str],
    fields: Mapping[str, str],
    *,
    dst_ip: str | None = None,
    dst_port: int | None = None,
) -> Said:
    address, port = match["ip"], _port(match["port"])
    if port is None or not _is_address(address) or (dst_ip is not None and not _is_address(dst_ip)):
        return _OTHER
    return Said(event_type, fields, address, port, dst_ip, dst_port)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _port(text: str) -> int | None:
    return int(text) if int(text) <= 0xFFFF else None
