"""RFC 5424, both ways: the one line format of event logs, shipping and third-party senders.

    <PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID [relay@55555 name="value" … nested="base64 JSON"] MSG
           at        host     app      procid msgid params                   nested                message

Invariants
- `decode(encode(m)) == m` for every message that `encode` takes: any text in any parameter, the message and the nested
  object, NUL and lone surrogates included.
- A line that `encode` made holds no control character, so no CR, LF or NUL: one message is one line of a file.
  What must not stand raw in a line goes into `nested`; `decnet_core.syslog.nested` says how.
- `decode` is total: a message or `RemoteProtocolError`, for any bytes. `encode(decode(line))` means the same as `line`.

Two readers: `decode` splits lines of our own shape on spaces and quotes, and gives up on anything that it is not sure
of (another SD-ELEMENT, a time in another form, a bracket astray): `decode_strict` then reads the line from its
beginning. The quick one never judges a line wrong. Tests hold them equal.

MSG that is not ASCII is written with a BOM, as RFC 5424 §6.4 wants. Elements of other programs stay in `other_sd` as
they were and are written back. Whether a message came from whom its HOSTNAME says is not known here: the peer's
certificate tells that. Lengths are not bounded here either: framing and the log's reader do that.

Source: RFC 5424 §6.
"""

from __future__ import annotations

from datetime import UTC, datetime
from re import compile as pattern

from decnet_core.errors import LocalProtocolError, RemoteProtocolError
from decnet_core.syslog.message import NIL, SyslogMessage
from decnet_core.syslog.nested import NOTHING_SPILLED, Spilled, encode_nested, is_clean, stand_in
from decnet_core.syslog.source_address import source_address_of
from decnet_core.syslog.strict import (
    BOM,
    NESTED,
    SD_ID,
    SD_NAME,
    decode_strict,
    read_structured_data,
    with_nested,
)

__all__ = ["NIL", "SD_ID", "SyslogMessage", "decode", "encode", "source_address_of"]

# RFC 5424 §6: HOSTNAME, APP-NAME, PROCID, MSGID.
_HOST_CHARS, _APP_CHARS, _PROCID_CHARS, _MSGID_CHARS = 255, 48, 128, 32

_PRIORITY_OF = {
    f"<{facility * 8 + severity}>1": (facility, severity) for facility in range(24) for severity in range(8)
}
_PRI_OF = {priority: pri for pri, priority in _PRIORITY_OF.items()}

_OURS = f"[{SD_ID}"
_NAME = pattern(SD_NAME)
_MARKS = pattern("[\0-\3]")
_OUR_TIME = pattern("[0-9]{4}-[0-9]{2}-[0-9]{2}T(?!24)[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z")

# Names of parameters come from a catalogue of some dozens and are remembered; bounded, for peers can send any.
_KNOWN_NAMES = 1024


def encode(message: SyslogMessage) -> bytes:
    """Write one line, without a line end.

    Raises:
        LocalProtocolError: a slot, a parameter's name, the time, the nested object or the foreign structured data is
            not what RFC 5424 or `SyslogMessage` allows. Texts never are a reason.
    """
    pri = _PRI_OF.get((message.facility, message.severity))
    if pri is None:
        raise LocalProtocolError(f"Facility {message.facility} with severity {message.severity} is no syslog priority")
    _check_slot("host", message.host, _HOST_CHARS)
    _check_slot("app", message.app, _APP_CHARS)
    _check_slot("procid", message.procid, _PROCID_CHARS)
    _check_slot("msgid", message.msgid, _MSGID_CHARS)
    text = message.message
    spilled_text = None
    if not is_clean(text):
        spilled_text, text = text, stand_in(text)
    if text:
        text = f" {text}" if text.isascii() else f" {BOM}{text}"
    sd = _structured_data(message, spilled_text)
    slots = f"{message.host} {message.app} {message.procid} {message.msgid}"
    return f"{pri} {_time_text(message.at)} {slots} {sd}{text}".encode()


def decode(line: bytes) -> SyslogMessage:
    """Read one line, ours or a third party's.

    Args:
        line: one message without a line end of its transport (an LF within it is a character of the message).

    Raises:
        RemoteProtocolError: it is not RFC 5424, or its `nested` is not ours.
    """
    text = line.decode("utf-8", "surrogateescape")
    bare = _split(text)
    if bare is None:
        return decode_strict(text)
    return with_nested(bare)


def _structured_data(message: SyslogMessage, spilled_text: str | None) -> str:
    parts = [_OURS]
    spilled_params: dict[str, str] = {}
    for name, value in message.params.items():
        shown = value
        if not (value.isprintable() or is_clean(value)):  # the first alone spares a call, nearly always
            spilled_params[name] = value
            shown = stand_in(value)
        if "\\" in shown or '"' in shown or "]" in shown:
            shown = shown.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
        parts.append(f'{_WRITTEN[name]}{shown}"')
    other_sd = message.other_sd
    spilled = NOTHING_SPILLED
    if other_sd:
        _check_other_sd(other_sd)
    if spilled_params or spilled_text is not None or not is_clean(other_sd):
        spilled_sd, other_sd = (None, other_sd) if is_clean(other_sd) else (other_sd, "")
        spilled = Spilled(spilled_params, spilled_text, spilled_sd)
    if message.nested is not None or spilled is not NOTHING_SPILLED:
        parts.append(f' {NESTED}="{encode_nested(message.nested, spilled)}"')
    if len(parts) == 1:
        return other_sd or NIL
    return f"{''.join(parts)}]{other_sd}"


def _split(text: str) -> SyslogMessage | None:
    """Read a line of our own shape but for `nested`; None for any other line, whether right or wrong."""
    try:
        pri, stamp, host, app, procid, msgid, rest = text.split(" ", 6)
        facility, severity = _PRIORITY_OF[pri]
        at = _time_of(stamp)
    except (ValueError, KeyError):
        return None
    slots = f"{host}{app}{procid}{msgid}"
    if not (
        0 < len(host) <= _HOST_CHARS
        and 0 < len(app) <= _APP_CHARS
        and 0 < len(procid) <= _PROCID_CHARS
        and 0 < len(msgid) <= _MSGID_CHARS
        and slots.isascii()
        and slots.isprintable()
    ):
        return None
    if rest.startswith(_OURS):
        # Up to the first `"]`, which ends the element unless a backslash or another bracket stands before it.
        body, closing, tail = rest[len(_OURS) :].partition('"]')
        if "\\" in body:
            params, tail = _split_escaped(rest[len(_OURS) :])
        else:
            params = _split_params(body.split('"')) if closing and "]" not in body else None
    else:
        params, tail = ({}, rest[1:]) if rest.startswith(NIL) else (None, "")
    if params is None or (tail and tail[0] != " "):
        return None
    message = tail[1:]
    if message[:1] == BOM:
        message = message[1:]
    return SyslogMessage(facility, severity, at, host, app, procid, msgid, params, None, message)


def _split_escaped(rest: str) -> tuple[dict[str, str] | None, str]:
    """Read parameters with escapes, and what stands after the element; None for anything but our own shape.

    Control characters, which no line of ours holds, take the places of the escapes while quotes and brackets are
    counted. Escaped backslashes go first: the backslashes of a run pair up from its left.
    """
    if _MARKS.search(rest):
        return None, ""
    marked = rest.replace("\\\\", "\0").replace('\\"', "\1").replace("\\]", "\2")
    body, closing, tail = marked.partition('"]')
    if not closing or "]" in body:
        return None, ""
    pieces = body.replace('"', "\3").replace("\0", "\\").replace("\1", '"').replace("\2", "]").split("\3")
    # A backslash in a name would have meant itself, and a pair of them two.
    params = None if any("\\" in name for name in pieces[::2]) else _split_params(pieces)
    return params, tail.replace("\0", "\\\\").replace("\1", '\\"').replace("\2", "\\]")


def _split_params(pieces: list[str]) -> dict[str, str] | None:
    """Read names, each ` name=`, and values in turn; None if they are anything else, or a name comes twice."""
    names = pieces[::2]
    try:
        params = dict(zip(map(_READ.__getitem__, names), pieces[1::2], strict=True))
    except ValueError:  # a name is none; a name without a value
        return None
    return params if len(params) == len(names) else None


def _time_of(stamp: str) -> datetime | None:
    """Read the time in the one form that we write, or NILVALUE.

    Raises:
        ValueError: any other form, or a time that does not exist.
    """
    if stamp == NIL:
        return None
    # fromisoformat alone takes many other forms: a NUL before the zone, or hour 24 from Python 3.14 on.
    if _OUR_TIME.fullmatch(stamp) is None:
        raise ValueError(stamp)
    return datetime.fromisoformat(stamp)


def _time_text(at: datetime | None) -> str:
    if at is None:
        return NIL
    if at.tzinfo is not UTC:
        if at.utcoffset() is None:
            raise LocalProtocolError("The time of a syslog message has no time zone")
        try:
            at = at.astimezone(UTC)
        except OverflowError:
            raise LocalProtocolError("The time of a syslog message is outside of the years 1 to 9999") from None
    return f"{at.isoformat(timespec='microseconds')[:26]}Z"


def _check_slot(name: str, value: str, max_chars: int) -> None:
    if not (0 < len(value) <= max_chars and value.isascii() and value.isprintable() and " " not in value):
        raise LocalProtocolError(f"The {name} of a syslog message is not 1 to {max_chars} printable ASCII characters")


def _check_other_sd(other_sd: str) -> None:
    try:
        end, ours, _ = read_structured_data(other_sd)
    except RemoteProtocolError as cause:
        raise LocalProtocolError("The foreign structured data of a syslog message is malformed") from cause
    if ours is not None or end != len(other_sd):
        raise LocalProtocolError("The foreign structured data of a syslog message is not foreign, or not only that")


class _Written(dict[str, str]):
    """Remembers how the names of parameters begin them: `name` -> ` name="`."""

    __slots__ = ()

    def __missing__(self, name: str) -> str:
        if name == NESTED or _NAME.fullmatch(name) is None:
            raise LocalProtocolError(f"{name[:40]!r} cannot name a parameter of a syslog message")
        if len(self) < _KNOWN_NAMES:
            self[name] = f' {name}="'
        return f' {name}="'


class _Read(dict[str, str]):
    """Remembers what stands before a value: ` name=` -> `name`. A key is never longer than an SD-NAME."""

    __slots__ = ()

    def __missing__(self, piece: str) -> str:
        name = piece[1:-1]
        if piece[:1] != " " or piece[-1:] != "=" or _NAME.fullmatch(name) is None:
            raise ValueError(piece)
        if len(self) < _KNOWN_NAMES:
            self[piece] = name
        return name


_WRITTEN, _READ = _Written(), _Read()
