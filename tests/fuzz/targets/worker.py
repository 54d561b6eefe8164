"""What a worker reads: sensors' messages, deckies' consoles, the kernel's records."""

from __future__ import annotations

import asyncio
import json
import shlex
import struct
from collections.abc import Sequence
from datetime import UTC, datetime

from decnet_agent.evidence import sensors
from decnet_agent.evidence.channel import MAX_LINE_BYTES, decode, encode, event_from_json, event_to_json
from decnet_agent.evidence.guest_lines import MAX_TEXT_CHARS, read_line
from decnet_agent.tap import decoding
from decnet_agent.tap.programs import HEADER_BYTES, NAME_BYTES, Kind
from decnet_core import events
from decnet_core.errors import LocalProtocolError, RemoteProtocolError
from decnet_core.events import Event, EventType, Trust, cursor_key, from_syslog, to_syslog
from decnet_core.syslog import rfc5424
from tests.fuzz.target import Target, hold
from tests.fuzz.targets.syslog import LINES

_AT = datetime(2026, 11, 23, 16, tzinfo=UTC)


def channel(data: bytes) -> None:
    """A sensor's line is an event that comes back equal, or refused; one that fits the catalogue makes a line."""
    try:
        message = decode(data + b"\n")
        read = event_from_json("tap:boot", message.get("event", message))
    except RemoteProtocolError:
        return
    again = event_from_json("tap:boot", decode(encode({"event": event_to_json(read)}))["event"])
    hold(again == read, "an event comes back from the channel as another")
    try:
        rfc5424.encode(to_syslog(read))
    except LocalProtocolError:
        return


def collector(data: bytes) -> None:
    """A whole conversation of a sensor with the collector: cursors grow, the source is the one of the hello."""
    _RUNNER.run(_converse(data))


def guest(data: bytes) -> None:
    """A line of a decky is one event, bound to what the collector knows, and fits the catalogue and one line."""
    read = read_line(data, at=_AT, decky="web-01", source="container:c1", cursor="17.2")
    bound = (read.at, read.decky, read.source, read.cursor, read.trust)
    hold(bound == (_AT, "web-01", "container:c1", "17.2", Trust.GUEST), "a guest's line chose what binds it")
    hold(read.session is None and events.RESERVED_PARAMS.isdisjoint(read.fields), "a guest's line named a session")
    hold(len(read.text) <= MAX_TEXT_CHARS + 50, "a guest's line is not bounded")
    line = rfc5424.encode(to_syslog(read))
    again = from_syslog(rfc5424.decode(line), fallback_source="", fallback_cursor="", received_at=_AT)
    hold(again == read, "a guest's line comes back as another event")


def tap(data: bytes) -> None:
    """A record of the kernel is read or refused; its words make a line that a shell splits the same way."""
    for record in (data, _plausible(data)):
        try:
            read = decoding.decode(record)
        except RemoteProtocolError:
            continue
        words = decoding.arguments(read)
        line = decoding.command_line(words, cut=False)
        line.encode("utf-8")
        decoding.typed_line(read.text).encode("utf-8")
        hold(len(line) <= decoding.COMMAND_CHARACTERS + 1, "a command line is not bounded")
        if len(line) <= decoding.COMMAND_CHARACTERS:
            hold(shlex.split(line) == [decoding.readable(word) for word in words], "a shell splits it differently")


async def _converse(data: bytes) -> None:
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    reader.feed_data(data)
    reader.feed_eof()
    written: list[Event] = []
    told: list[str] = []

    async def append(batch: Sequence[Event]) -> None:
        written.extend(batch)

    try:
        await sensors._receive(reader, _Nowhere(), lambda _source: "3.1", append, told.append)  # type: ignore[arg-type]
    except (RemoteProtocolError, ValueError) as refused:  # ValueError is asyncio's, of a line beyond its limit
        hold(isinstance(refused, RemoteProtocolError) or len(data) > MAX_LINE_BYTES, "the collector hit a ValueError")
    cursors = [(3, 1), *(cursor_key(event.cursor) for event in written)]
    hold(cursors == sorted(set(cursors)), "cursors do not grow")
    hold({event.source for event in written} <= set(told), "a sensor speaks for a source that it did not name")
    hold(len(told) <= 1, "a sensor names two sources")


class _Nowhere:
    """A transport whose peer takes everything."""

    def write(self, data: bytes) -> None:
        hold(len(data) <= MAX_LINE_BYTES, "the collector answers more than a line")

    async def drain(self) -> None:
        return


_RUNNER = asyncio.Runner()


def _plausible(data: bytes) -> bytes:
    """Give a record a kind that exists and a length that fits, so that what is behind them is reached."""
    if len(data) < HEADER_BYTES:
        return data
    kind = list(Kind)[data[0] % len(Kind)]
    text_bytes = max(0, len(data) - HEADER_BYTES - (NAME_BYTES if kind is Kind.EXECUTED else 0))
    fixed = bytearray(data)
    struct.pack_into("=I", fixed, 0, kind)
    struct.pack_into("=I", fixed, HEADER_BYTES - 8, text_bytes)
    return bytes(fixed)


_EVENT = Event(
    _AT, "web-01", "ssh", EventType.COMMAND_RUN, Trust.SENSOR, "tap:boot", "7.1", "192.0.2.7", 4711, None, None, "s1",
    12, {"command": "cat /etc/passwd\n\ud800"}, "x",
)  # fmt: skip
_MESSAGES = (encode({"event": event_to_json(_EVENT)})[:-1], b'{"source":"tap:boot"}')
_JSON_TOKENS = (
    b"{", b"}", b'":', b",", b'"event":', b'"source":', b'"cursor":', b'"trust":"sensor"', b'"fields":{', b"null",
    b"true", b'"at":"2026-11-23T16:00:00+00:00"', b'"0001-01-01T00:00:00+23:59"', b'"pid":', b"[" * 50, b'"\\udcff"',
)  # fmt: skip

_PEER = b"192.0.2.7 port 4711"
_SAID = (
    b"Failed password for invalid user a b from " + _PEER + b" ssh2",
    b"Accepted publickey for root from " + _PEER + b" ssh2: ED25519 SHA256:" + b"A" * 43,
    b"Connection closed by authenticating user root " + _PEER + b" [preauth]",
    b"Connection from " + _PEER + b' on 192.0.2.1 port 22 rdomain ""',
    b"pam_unix(sshd:session): session opened for user root(uid=0) by (uid=0)",
    b"root : TTY=pts/0 ; PWD=/root ; USER=root ; COMMAND=/bin/id",
)
_GUEST = tuple(
    b"<86>1 2026-11-23T16:00:00.123456+00:00 web-01 %s 4711 - - %s" % (program, said)
    for program, said in zip((b"sshd", b"sshd", b"sshd", b"sshd", b"su", b"sudo"), _SAID, strict=True)
)
_KERNEL = tuple(
    struct.pack("=IIQIIIIQQ16sIIII", kind, 1, 2, 3, 4, 5, 6, 7, 8, b"bash", 1, 6, 0, 8)
    + (b"/bin/ls".ljust(NAME_BYTES, b"\0") if kind is Kind.EXECUTED else b"")
    + b"ls\0-l\0\xff'\0"
    for kind in Kind
)

TARGETS = (
    Target("channel", channel, _MESSAGES, _JSON_TOKENS),
    Target(
        "collector",
        collector,
        (
            b'{"source":"tap:boot"}\n' + _MESSAGES[0] + b"\n" + _MESSAGES[0].replace(b"7.1", b"7.2") + b"\n",
            b'{"source":"tap:boot"}\n' + json.dumps({"event": {}}).encode() + b"\n",
        ),
        (*_JSON_TOKENS, _MESSAGES[0] + b"\n"),
        2,
    ),
    Target(
        "guest",
        guest,
        (*_GUEST, *LINES, b"[  OK  ] Started. " + _GUEST[0]),
        (
            b" from ",
            b" port ",
            _PEER,
            b" ssh2",
            b"invalid user ",
            b"USER=",
            b"COMMAND=",
            b" ; ",
            b"TTY=",
            b"PWD=",
            b"sshd",
            b"sudo",
            b"session opened for user ",
            b"[preauth]",
            b"<86>1 2026-11-23T",
            b'[relay@55555 trust="sensor"',
            b' session="s"',
            b' decky="x"',
            b": 11: ",
            b"disconnected by user",
        ),
        20,
    ),
    Target("tap", tap, _KERNEL, (b"'", b'"', b"\0", b"\0\0", b"$(", b"#"), 10),
)
