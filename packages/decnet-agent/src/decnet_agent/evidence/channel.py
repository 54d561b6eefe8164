"""What a sensor process and the collector say to each other over `<run-directory>/events.sock`.

A unix stream socket; lines of JSON, each ended by LF, at most `MAX_LINE_BYTES` with it:

    sensor:     {"source": S}             which place the events come from, once
    collector:  {"cursor": C or null}     the last cursor of S that it holds durably
    sensor:     {"event": {…}}            one event of S; cursors grow
    collector:  {"ack": C}                everything up to C is durable

What the collector already holds when the sensor (re)connects is not sent again, and an event whose cursor is not above
the last one of its connection is refused, so that an event arrives once however often either side dies or hangs up.

This module is the codec; `sensors` is the collector's end and `sender` the sensor's.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from decnet_core.errors import RemoteProtocolError
from decnet_core.events import Event, Trust, cursor_key

MAX_LINE_BYTES = 256 << 10
"""An event's texts are bounded by 8192 characters each; JSON makes up to six bytes of one."""
MAX_BATCH = 512
"""Events that are made durable together: the collector's fsync is what costs."""
ANSWER_SECS = 30.0
"""How long an acknowledgement may take: a worker's disk under load, not longer."""

_EVENT_KEYS = frozenset(
    {"at", "decky", "service", "event_type", "trust", "cursor", "src_ip", "src_port", "dst_ip", "dst_port"}
    | {"session", "pid", "fields", "text"}
)
_TEXTS = ("decky", "service", "event_type", "cursor", "text")
_OPTIONAL_TEXTS = ("src_ip", "dst_ip", "session")
_OPTIONAL_NUMBERS = ("src_port", "dst_port", "pid")


def encode(message: dict[str, Any]) -> bytes:
    """Make one line; ASCII, so that no text can hold a line's end or broken UTF-8."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Read one line into an object.

    Raises:
        RemoteProtocolError: too long, no LF, no JSON, no object.
    """
    if len(line) > MAX_LINE_BYTES or not line.endswith(b"\n"):
        raise RemoteProtocolError("A line of the evidence channel is too long or cut off")
    try:
        message = json.loads(line.decode())  # given bytes, json takes surrogates in UTF-8, which come back merged
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise RemoteProtocolError("A line of the evidence channel is no JSON object")
    return message


def event_to_json(event: Event) -> dict[str, Any]:
    """Write an event without its source, which the connection has told."""
    return {
        "at": event.at.isoformat(),
        "decky": event.decky,
        "service": event.service,
        "event_type": str(event.event_type),
        "trust": event.trust.value,
        "cursor": event.cursor,
        "src_ip": event.src_ip,
        "src_port": event.src_port,
        "dst_ip": event.dst_ip,
        "dst_port": event.dst_port,
        "session": event.session,
        "pid": event.pid,
        "fields": dict(event.fields),
        "text": event.text,
    }


def event_from_json(source: str, data: object) -> Event:
    """Read an event.

    Raises:
        RemoteProtocolError: a member is missing, unknown or not what it must be.
    """
    if not isinstance(data, dict) or data.keys() != _EVENT_KEYS:
        raise RemoteProtocolError("An event on the evidence channel has missing or unknown members")
    fields = data["fields"]
    fits = (
        all(isinstance(data[key], str) for key in _TEXTS)
        and all(data[key] is None or isinstance(data[key], str) for key in _OPTIONAL_TEXTS)
        and all(data[key] is None or type(data[key]) is int for key in _OPTIONAL_NUMBERS)
        and isinstance(fields, dict)
        and all(isinstance(value, str) for value in fields.values())
        and isinstance(data["trust"], str)
        and data["trust"] in set(Trust)
    )
    if not fits:
        raise RemoteProtocolError("An event on the evidence channel has a member of the wrong kind")
    cursor_key(data["cursor"])
    return Event(**{**data, "at": _time(data["at"]), "trust": Trust(data["trust"]), "source": source})


def _time(text: object) -> datetime:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        at = None
    if at is None or at.utcoffset() is None:
        raise RemoteProtocolError("An event on the evidence channel has no proper time")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise RemoteProtocolError("An event on the evidence channel has a time beyond the calendar") from None
