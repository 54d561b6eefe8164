r"""The reference reader of RFC 5424: its grammar in three regular expressions, for every line there is.

`decnet_core.syslog.rfc5424.decode` reads the lines of our own shape by splitting and hands all others to this one, so
what is right or wrong is decided here alone. The expressions are possessive: no input makes them look twice.

What is strict: PRI without leading zeros up to 191, VERSION 1, exactly one space between slots, a TIMESTAMP that
exists on the calendar (no leap second) with at most six digits of a second, slots of printable ASCII in their lengths,
SD-NAMEs, escapes, each SD-ID once.

What is not: text (values and MSG) may be any octets, as MSG-ANY allows for MSG and as attackers make it for values; a
byte that is not UTF-8 becomes a surrogate escape. A backslash before any other character than `"`, `\` and `]`
stands for itself (RFC 5424 §6.3.3). The BOM of MSG is taken off.

Ours on top: the element `relay@55555` is a map, so a parameter that comes twice in it is refused; its parameter
`nested` is read by `decnet_core.syslog.nested`.

Source: RFC 5424 §6.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from decnet_core.errors import RemoteProtocolError
from decnet_core.syslog.message import NIL, SyslogMessage
from decnet_core.syslog.nested import decode_nested

SD_ID = "relay@55555"
"""The SD-ID of the one element that is ours."""

NESTED = "nested"
"""The parameter that holds JSON in base64."""

SD_NAME = r"[!#-<>-\\^-~]{1,32}"
"""SD-NAME: printable ASCII without `"`, `=` and `]`."""

BOM = "\ufeff"
"""What begins a MSG that is UTF-8 for certain."""

_HEADER = re.compile(
    r"<(?P<pri>0|[1-9][0-9]{0,2})>1 "
    r"(?:-|(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"T(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,6}))?"
    r"(?:Z|(?P<sign>[+-])(?P<offset_hours>[0-9]{2}):(?P<offset_minutes>[0-9]{2}))) "
    r"(?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48}) (?P<procid>[!-~]{1,128}) (?P<msgid>[!-~]{1,32}) "
)
_VALUE = r'(?:[^"\\\]]++|\\.)*+'
_ELEMENT = re.compile(rf'\[({SD_NAME})((?: {SD_NAME}="{_VALUE}")*+)\]', re.DOTALL)
_PARAM = re.compile(rf' ({SD_NAME})="({_VALUE})"', re.DOTALL)
_ESCAPE = re.compile(r'\\(["\\\]])')


def decode_strict(text: str) -> SyslogMessage:
    """Read one line.

    Args:
        text: the line, as UTF-8 with surrogate escapes, without a line end of its transport.

    Raises:
        RemoteProtocolError: it is not RFC 5424.
    """
    header = _HEADER.match(text)
    if header is None or int(header["pri"]) > 191:
        raise refusal("has no RFC 5424 header")
    if text.startswith(NIL, header.end()):
        end, params, other_sd = header.end() + 1, None, ""
    else:
        end, params, other_sd = read_structured_data(text, header.end())
    if end < len(text) and text[end] != " ":
        raise refusal("goes on without a space after its structured data")
    facility, severity = divmod(int(header["pri"]), 8)
    bare = SyslogMessage(
        facility=facility,
        severity=severity,
        at=_timestamp(header),
        host=header["host"],
        app=header["app"],
        procid=header["procid"],
        msgid=header["msgid"],
        params=params or {},
        message=text[end + 1 :].removeprefix(BOM),
        other_sd=other_sd,
    )
    return with_nested(bare)


def read_structured_data(text: str, start: int = 0) -> tuple[int, dict[str, str] | None, str]:
    """Read SD-ELEMENTs as long as there are any.

    Returns:
        where they end, the parameters of our element (None if it is not there), the raw text of all others.

    Raises:
        RemoteProtocolError: there is none, one is malformed, or an SD-ID or a parameter of ours comes twice.
    """
    params: dict[str, str] | None = None
    others: list[str] = []
    ids: set[str] = set()
    end = start
    while text.startswith("[", end):
        element = _ELEMENT.match(text, end)
        if element is None:
            raise refusal("holds a malformed SD-ELEMENT")
        sd_id = element[1]
        if sd_id in ids:
            raise refusal("holds an SD-ID twice")
        ids.add(sd_id)
        if sd_id == SD_ID:
            params = _params(element[2])
        else:
            others.append(element[0])
        end = element.end()
    if end == start:
        raise refusal("has no structured data, not even the dash for none")
    return end, params, "".join(others)


def with_nested(bare: SyslogMessage) -> SyslogMessage:
    """Finish a message whose parameters are still as they stood in the line: read `nested`, restore what it spilled.

    Raises:
        RemoteProtocolError: the parameter is not ours, or speaks of values that are not in the line.
    """
    if NESTED not in bare.params:
        return bare
    params, other_sd = dict(bare.params), bare.other_sd
    nested, spilled = decode_nested(params.pop(NESTED))
    if not params.keys() >= spilled.params.keys():
        raise refusal("spills a parameter that it does not have")
    params.update(spilled.params)
    message = bare.message if spilled.message is None else spilled.message
    if spilled.other_sd is not None:
        end, ours, _ = read_structured_data(spilled.other_sd)
        if other_sd or ours is not None or end != len(spilled.other_sd):
            raise refusal("spills structured data that is none")
        other_sd = spilled.other_sd
    return replace(bare, params=params, nested=nested, message=message, other_sd=other_sd)


def refusal(what: str) -> RemoteProtocolError:
    """Say what is wrong with a line, without its bytes."""
    return RemoteProtocolError(
        f"A syslog line {what}", "Make the sender write RFC 5424 (rsyslog: template RSYSLOG_SyslogProtocol23Format)."
    )


def _params(body: str) -> dict[str, str]:
    found = _PARAM.findall(body)
    params = {name: _ESCAPE.sub(r"\1", raw) if "\\" in raw else raw for name, raw in found}
    if len(params) != len(found):
        raise refusal("holds a parameter twice")
    return params


def _timestamp(header: re.Match[str]) -> datetime | None:
    if header["year"] is None:
        return None
    year, month, day = int(header["year"]), int(header["month"]), int(header["day"])
    hour, minute, second = int(header["hour"]), int(header["minute"]), int(header["second"])
    micros = int((header["fraction"] or "").ljust(6, "0"))
    try:
        at = datetime(year, month, day, hour, minute, second, micros, UTC)
        if header["sign"] is None:
            return at
        hours, minutes = int(header["offset_hours"]), int(header["offset_minutes"])
        if hours > 23 or minutes > 59:
            raise refusal("has an offset from UTC that no clock has")
        offset = timedelta(hours=hours, minutes=minutes)
        return at - offset if header["sign"] == "+" else at + offset
    except (ValueError, OverflowError):  # not on the calendar; not within the years 1 to 9999 in UTC
        raise refusal("has a time that does not exist") from None
