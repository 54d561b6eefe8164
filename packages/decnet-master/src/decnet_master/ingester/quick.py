"""Read a line as our own collectors write it straight into a row, several times as fast as through the codec's values.

It splits on spaces and quotes and looks the pieces up among those that it has seen before. Whatever it is not sure of
(another shape, a backslash, a `nested` parameter, a character that a database cannot hold, an address that is none)
it gives up, and `lines` reads the line the long way. So it never judges a line wrong, and it has no rule that is not
one of the codec, of `events.from_syslog` or of `store.records`: a test holds its rows to theirs.

Everything that it remembers is bounded: senders can make up names for ever.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from json.encoder import encode_basestring  # what an encoder with ensure_ascii=False writes a string with

from decnet_core.events import RESERVED_PARAMS, EventType, Trust, event_id
from decnet_core.syslog.rfc5424 import NIL, SD_ID
from decnet_core.syslog.strict import BOM, SD_NAME
from decnet_master.store.records import Record
from decnet_master.store.tally import TELLING
from decnet_master.store.values import micros

_KNOWN = 4096
_HOST_CHARS, _APP_CHARS, _MSGID_CHARS = 255, 48, 32  # RFC 5424 §6
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
        params = dict(zip(pieces[::2], pieces[1::2], strict=True))
        if (
            2 * len(params) != len(pieces)  # one comes twice
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
        source, cursor = params.pop(" source="), params.pop(" cursor=")
        params.pop(" id=", None)
        event_type = _type(msgid)
        row = (
            event_id(source, cursor),
            _micros(stamp),
            received_at,
            worker,
            _slot(host, _HOST_CHARS),
            _slot(app, _APP_CHARS),
            event_type,
            _TRUSTS[params.pop(" trust=", None)],
            _address(params.pop(" src_ip=", None)),
            _port(params.pop(" src_port=", None)),
            _address(params.pop(" dst_ip=", None)),
            _port(params.pop(" dst_port=", None)),
            params.pop(" session=", None),
            _pid(procid),
            f"{{{','.join([_written(name) + encode_basestring(params[name]) for name in params])}}}",
            tail[1:].removeprefix(BOM),
            source,
            cursor,
        )
    except (ValueError, KeyError):
        return None
    return row, {name[1:-1]: params[name] for name in params} if event_type in TELLING else _NO_FIELDS


@lru_cache(_KNOWN)
def _second(text: str) -> int:
    if _SECOND.fullmatch(text) is None:
        raise ValueError(text)
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def _micros(stamp: str) -> int:
    fraction = stamp[20:26]
    if stamp[19:20] != "." or stamp[26:] != "Z" or not (fraction.isascii() and fraction.isdigit()):
        raise ValueError(stamp)
    return _second(stamp[:19]) + int(fraction)


@lru_cache(_KNOWN)
def _slot(text: str, max_chars: int) -> str:
    if not (0 < len(text) <= max_chars and text.isascii() and text.isprintable()):
        raise ValueError(text)
    return text


@lru_cache(_KNOWN)
def _type(msgid: str) -> str:
    return EventType.GUEST_LINE.value if msgid == NIL else _slot(msgid, _MSGID_CHARS)


def _pid(procid: str) -> int | None:
    if procid == NIL:
        return None
    if not (procid.isascii() and procid.isdigit() and len(procid) <= _PID_DIGITS):
        raise ValueError(procid)
    return int(procid)


@lru_cache(_KNOWN)
def _address(text: str | None) -> str | None:
    return None if text is None else str(ip_address(text if len(text) <= _ADDRESS_CHARS else ""))


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 0xFFFF):
        raise ValueError(text)
    return int(text)


@lru_cache(_KNOWN)
def _written(piece: str) -> str:
    """Begin a member of a JSON object with the name of a field, ` name=`."""
    found = _NAME.fullmatch(piece)
    if found is None or found[1] in RESERVED_PARAMS:
        raise ValueError(piece)
    return f"{encode_basestring(found[1])}:"
