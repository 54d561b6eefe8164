"""Read a line as our own collectors write it straight into a row, several times as fast as through the codec's values.

It splits on spaces and quotes. The names of a line's parameters, all of them as they follow one another, are its shape;
there are some dozens of shapes, and what a shape means (where the source stands, how the fields' JSON begins) is worked
out once. Hosts, services, addresses and ports are likewise looked up among those seen before.

Whatever it is not sure of (another form, a backslash, a `nested` parameter, a character that a database cannot hold,
an address that is none) it gives up, and `lines` reads the line the long way. So it never judges a line wrong, and has
no rule that is not one of the codec, of `events.from_syslog` or of `store.records`: a test holds its rows to theirs.

Everything that it remembers is bounded: senders can make up names for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from json.encoder import encode_basestring  # what an encoder with ensure_ascii=False writes a string with
from typing import Any

from decnet_core.events import RESERVED_PARAMS, EventType, Trust, event_id
from decnet_core.syslog.rfc5424 import NIL, SD_ID
from decnet_core.syslog.strict import BOM, NESTED, SD_NAME
from decnet_master.store.records import Record
from decnet_master.store.tally import TELLING
from decnet_master.store.values import micros

_HOST_CHARS, _APP_CHARS, _MSGID_CHARS = 255, 48, 32  # RFC 5424 §6
_MOST_PARAMS = 64  # our own lines have a dozen; 512 shapes of a megabyte of names would be gigabytes
_PID_DIGITS = 18  # all such numbers fit into 63 bits
_ADDRESS_CHARS = 45

_PRIORITIES = frozenset(f"<{number}>1" for number in range(192))
_SECOND = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?!24)[0-9]{2}:[0-9]{2}:[0-9]{2}")
_NAME = re.compile(f" ({SD_NAME})=")
_OURS = f"[{SD_ID} "
_BEFORE_PARAMS = len(_OURS) - 1  # each parameter keeps the space before it
_TRUSTS: dict[str | None, str] = {None: Trust.GUEST.value, **{trust.value: trust.value for trust in Trust}}
_NO_FIELDS: dict[str, str] = {}


def quick_row(line: bytes, worker: str, received_at: int) -> tuple[Record, dict[str, str]] | None:
    """Read one line.

    Args:
        line: as it came.
        worker: from the certificate.
        received_at: microseconds.

    Returns:
        its row, and its fields if a tally reads those of its type; None for a line that is to be read the long way.
    """
    try:
        text = line.decode()
        pri, stamp, host, app, procid, msgid, rest = text.split(" ", 6)
        body, closing, tail = rest.partition('"]')
        pieces = body[_BEFORE_PARAMS:].split('"')
        if (
            len(pieces) % 2
            or pri not in _PRIORITIES
            or not rest.startswith(_OURS)
            or not closing
            or "\\" in body
            or "]" in body
            or (tail and tail[0] != " ")
            or "\0" in text
            or "\x1a" in text
        ):
            return None
        shape = _SHAPES[tuple(pieces[::2])]
        values: list[Any] = pieces[1::2]
        values.append(None)  # what an absent parameter's place, -1, finds
        source, cursor = values[shape.source], values[shape.cursor]
        event_type = _TYPES[msgid]
        row = (
            event_id(source, cursor),
            _micros(stamp),
            received_at,
            worker,
            _HOSTS[host],
            _APPS[app],
            event_type,
            _TRUSTS[values[shape.trust]],
            _ADDRESSES[values[shape.src_ip]],
            _PORTS[values[shape.src_port]],
            _ADDRESSES[values[shape.dst_ip]],
            _PORTS[values[shape.dst_port]],
            values[shape.session],
            _PIDS[procid],
            f"{{{','.join([begin + encode_basestring(values[place]) for begin, place in shape.members])}}}",
            tail[1:].removeprefix(BOM),
            source,
            cursor,
        )
    except (ValueError, KeyError):
        return None
    return row, {name: values[place] for name, place in shape.fields} if event_type in TELLING else _NO_FIELDS


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where each parameter's value stands among the values; -1 where there is none."""

    source: int
    cursor: int
    trust: int
    src_ip: int
    src_port: int
    dst_ip: int
    dst_port: int
    session: int
    fields: tuple[tuple[str, int], ...]
    members: tuple[tuple[str, int], ...]  # the same, with the name as a member of a JSON object begins


class _Known(dict[Any, Any]):
    """Remembers what a piece of a line means, up to a bound; a piece that means nothing raises ValueError."""

    __slots__ = ("_bound", "_read")

    def __init__(self, read: Callable[[Any], Any], bound: int = 4096) -> None:
        super().__init__()
        self._read = read
        self._bound = bound

    def __missing__(self, piece: Any) -> Any:
        meaning = self._read(piece)
        if len(self) < self._bound:
            self[piece] = meaning
        return meaning


def _shape(pieces: tuple[str, ...]) -> _Shape:
    if len(pieces) > _MOST_PARAMS:
        raise ValueError("more parameters than a line of ours has")
    places: dict[str, int] = {}
    for place, piece in enumerate(pieces):
        found = _NAME.fullmatch(piece)
        if found is None or found[1] in places or found[1] == NESTED:
            raise ValueError(piece)
        places[found[1]] = place
    fields = tuple((name, place) for name, place in places.items() if name not in RESERVED_PARAMS)
    return _Shape(
        source=places["source"],
        cursor=places["cursor"],
        trust=places.get("trust", -1),
        src_ip=places.get("src_ip", -1),
        src_port=places.get("src_port", -1),
        dst_ip=places.get("dst_ip", -1),
        dst_port=places.get("dst_port", -1),
        session=places.get("session", -1),
        fields=fields,
        members=tuple((f"{encode_basestring(name)}:", place) for name, place in fields),
    )


def _slot(max_chars: int) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not (0 < len(text) <= max_chars and text.isascii() and text.isprintable()):
            raise ValueError(text)
        return text

    return read


def _second(text: str) -> int:
    if _SECOND.fullmatch(text) is None:
        raise ValueError(text)
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def _micros(stamp: str) -> int:
    fraction = stamp[20:26]
    if stamp[19:20] != "." or stamp[26:] != "Z" or not (fraction.isascii() and fraction.isdigit()):
        raise ValueError(stamp)
    known: int = _SECONDS[stamp[:19]]
    return known + int(fraction)


def _pid(procid: str) -> int:
    if not (procid.isascii() and procid.isdigit() and len(procid) <= _PID_DIGITS):
        raise ValueError(procid)
    return int(procid)


def _address(text: str | None) -> str | None:
    return None if text is None else str(ip_address(text if len(text) <= _ADDRESS_CHARS else ""))


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 0xFFFF):
        raise ValueError(text)
    return int(text)


_SHAPES = _Known(_shape, 512)
_HOSTS, _APPS = _Known(_slot(_HOST_CHARS)), _Known(_slot(_APP_CHARS))
_TYPES = _Known(_slot(_MSGID_CHARS))
_TYPES[NIL] = EventType.GUEST_LINE.value
_PIDS = _Known(_pid, 16_384)
_PIDS[NIL] = None
_ADDRESSES, _PORTS, _SECONDS = _Known(_address, 16_384), _Known(_port, 16_384), _Known(_second)
