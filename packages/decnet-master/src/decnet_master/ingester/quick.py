"""Read a line as our own collectors write it straight into a row, several times as fast as through the codec's values.

It splits on spaces and quotes. The names of a line's parameters, all of them as they follow one another, are its shape;
there are some dozens of shapes, and what a shape means (where the source stands, how the fields' JSON begins) is worked
out once. Hosts, services, addresses and ports are likewise looked up among those seen before.

Whatever it is not sure of (another form, a backslash that escapes nothing, a `nested` parameter, a character that a
database cannot hold, an address that is none) it gives up, and `lines` reads the line the long way. So it never judges
a line wrong, and has no rule that is not one of the codec, of `events.from_syslog` or of `store.records`: a test holds
its rows to theirs.

Everything that it remembers is bounded: senders can make up names for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from json.encoder import encode_basestring  # what an encoder with ensure_ascii=False writes a string with
from operator import itemgetter
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
_SECOND = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?!24)[0-9]{2}:[0-9]{2}:[0-9]{2}\.")
_NAME = re.compile(f" ({SD_NAME})=")
_OURS = f"[{SD_ID} "
_BEFORE_PARAMS = len(_OURS) - 1  # each parameter keeps the space before it
_OPTIONAL = ("trust", "src_ip", "src_port", "dst_ip", "dst_port", "session")
_MARKS = re.compile("[\1-\3]")
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
        is_escaped = "\\" in rest
        if is_escaped:
            rest = _marked(rest)
        body, closing, tail = rest.partition('"]')
        pieces = body.split('"')
        fraction = stamp[20:26]
        if (
            len(pieces) % 2
            or pri not in _PRIORITIES
            or not closing
            or "]" in body
            or (tail and tail[0] != " ")
            or "\0" in text
            or "\x1a" in text
            or stamp[26:] != "Z"
            or not (fraction.isdigit() and fraction.isascii())
        ):
            return None
        shape = _SHAPES['"'.join(pieces[::2])]
        values: list[Any] = pieces[1::2]
        if is_escaped:
            values = [_read_back(value) for value in values]
            tail = _as_it_came(tail)
        values.append(None)  # what an absent parameter's place, -1, finds
        source, cursor, trust, src_ip, src_port, dst_ip, dst_port, session = shape.slots(values)
        event_type = _TYPES[msgid]
        row = (
            event_id(source, cursor),
            _SECONDS[stamp[:20]] + int(fraction),
            received_at,
            worker,
            _HOSTS[host],
            _APPS[app],
            event_type,
            _TRUSTS[trust],
            _ADDRESSES[src_ip],
            _PORTS[src_port],
            _ADDRESSES[dst_ip],
            _PORTS[dst_port],
            session,
            _PIDS[procid],
            shape.json % tuple(map(encode_basestring, shape.fields(values))),
            tail[1:].removeprefix(BOM),
            source,
            cursor,
        )
    except (ValueError, KeyError):
        return None
    return row, dict(zip(shape.names, shape.fields(values), strict=True)) if event_type in TELLING else _NO_FIELDS


@dataclass(frozen=True, slots=True)
class _Shape:
    """What picks the parameters' values, each from its place among them; -1 is the place of one that is absent."""

    slots: Callable[[list[Any]], tuple[Any, ...]]  # source, cursor, trust, addresses and ports, session
    fields: Callable[[list[Any]], tuple[Any, ...]]
    names: tuple[str, ...]  # of the fields
    json: str  # the fields' object, with a place for each value


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


def _shape(text: str) -> _Shape:
    if not text.startswith(_OURS):
        raise ValueError(text)
    pieces = text[_BEFORE_PARAMS:].split('"')
    if len(pieces) > _MOST_PARAMS:
        raise ValueError("more parameters than a line of ours has")
    places: dict[str, int] = {}
    for place, piece in enumerate(pieces):
        found = _NAME.fullmatch(piece)
        if found is None or found[1] in places or found[1] == NESTED:
            raise ValueError(piece)
        places[found[1]] = place
    names = tuple(name for name in places if name not in RESERVED_PARAMS)
    members = [f"{encode_basestring(name)}:".replace("%", "%%") + "%s" for name in names]
    return _Shape(
        slots=itemgetter(places["source"], places["cursor"], *(places.get(name, -1) for name in _OPTIONAL)),
        fields=_picking([places[name] for name in names]),
        names=names,
        json=f"{{{','.join(members)}}}",
    )


def _picking(places: Sequence[int]) -> Callable[[list[Any]], tuple[Any, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple([values[place] for place in places])  # itemgetter gives one value bare


def _marked(text: str) -> str:
    """Put a mark for each escape, so that the quotes that are left are the ends of values."""
    if _MARKS.search(text):
        raise ValueError(text)
    # A run of backslashes begins outside of any escape, so they pair from its left.
    return text.replace("\\\\", "\1").replace('\\"', "\2").replace("\\]", "\3")


def _read_back(value: str) -> str:
    if "\\" in value:  # before a character that needs none: the codec knows what that is
        raise ValueError(value)
    return value.replace("\1", "\\").replace("\2", '"').replace("\3", "]")


def _as_it_came(tail: str) -> str:
    return tail.replace("\1", "\\\\").replace("\2", '\\"').replace("\3", "\\]")


def _slot(max_chars: int) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not (0 < len(text) <= max_chars and text.isascii() and text.isprintable()):
            raise ValueError(text)
        return text

    return read


def _second(text: str) -> int:
    if _SECOND.fullmatch(text) is None:
        raise ValueError(text)
    return micros(datetime.fromisoformat(text[:-1]).replace(tzinfo=UTC))


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
