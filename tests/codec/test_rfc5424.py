"""The codec: round trips of any text, totality, the quick reader against the strict one, what it refuses to write."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given

from decnet_core.errors import LocalProtocolError, RemoteProtocolError
from decnet_core.syslog import rfc5424
from decnet_core.syslog.nested import is_clean, stand_in
from decnet_core.syslog.rfc5424 import SyslogMessage, decode, encode
from decnet_core.syslog.strict import decode_strict, with_nested
from tests.codec import strategies

PLAIN = SyslogMessage(
    facility=20,
    severity=5,
    at=datetime(2026, 11, 23, 16, 0, 0, 123456, UTC),
    host="web-01",
    app="ssh",
    procid="4711",
    msgid="command.run",
    params={"src_ip": "192.0.2.7", "command": "id"},
    message="a command was run",
)


def test_a_line_looks_as_documented() -> None:
    assert encode(PLAIN) == (
        b"<165>1 2026-11-23T16:00:00.123456Z web-01 ssh 4711 command.run "
        b'[relay@55555 src_ip="192.0.2.7" command="id"] a command was run'
    )
    assert encode(SyslogMessage(0, 0)) == b"<0>1 - - - - - -"
    assert encode(replace(PLAIN, params={}, nested={}, message="é")).endswith(
        b'[relay@55555 nested="e30="] \xef\xbb\xbf\xc3\xa9'
    )


@given(strategies.messages)
def test_every_message_comes_back_exactly_from_one_clean_line(message: SyslogMessage) -> None:
    line = encode(message)
    assert decode(line) == message
    assert re.search("[\0-\x1f\x7f-\x9f\u2028\u2029]", line.decode("utf-8")) is None


@given(strategies.messages)
def test_a_stranger_sees_the_values_or_their_stand_ins(message: SyslogMessage) -> None:
    seen = stranger(encode(replace(message, other_sd="")))
    seen.pop("nested", None)
    assert seen == {name: text if is_clean(text) else stand_in(text) for name, text in message.params.items()}


@given(strategies.lines)
def test_any_bytes_give_a_message_or_a_refusal_and_a_message_can_be_written_again(line: bytes) -> None:
    try:
        message = decode(line)
    except RemoteProtocolError:
        return
    assert decode(encode(message)) == message


@given(strategies.lines)
def test_the_quick_reader_and_the_strict_one_agree(line: bytes) -> None:
    text = line.decode("utf-8", "surrogateescape")
    quick = rfc5424._split(text)
    if quick is not None:
        assert outcome(with_nested, quick) == outcome(decode_strict, text)


@given(strategies.messages)
def test_the_quick_reader_takes_our_lines(message: SyslogMessage) -> None:
    ours = replace(
        message, other_sd="", params={name: text for name, text in message.params.items() if "\\" not in name}
    )
    if ours.params or ours.nested is None:
        assert rfc5424._split(encode(ours).decode("utf-8")) is not None


HOSTILE = [
    '"] <165>1 - other-host ssh - login.succeeded [relay@55555 user="admin"]',
    'x\n<165>1 - other-host ssh - login.succeeded [relay@55555 user="admin"] ok',
    "x\r\n5 <13>1",
    "]",
    "\\",
    '\\"',
    "\\]\\",
    '" trust="sensor',
    '" nested="e30=',
    "\0",
    "\x85\u2028\u2029\x0b\x0c\x1c",
    "\udcff\udcfe",
    "\ud83d\ude00",
    "\ufeff",
    "",
    " ",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_stays_one_value_of_one_event(value: str) -> None:
    message = replace(
        PLAIN, params={"before": "1", "command": value, "after": "2"}, message=value, nested={value: [value]}
    )
    log = b"".join(encode(event) + b"\n" for event in (PLAIN, message, PLAIN))
    assert len(log.decode("utf-8").splitlines()) == 3
    assert [decode(line) for line in log.split(b"\n")[:-1]] == [PLAIN, message, PLAIN]
    assert list(stranger(encode(message)))[:3] == ["before", "command", "after"]


@pytest.mark.parametrize("unit", ["x", '"', "\0", "\udcff", "😀", "\n]"])
def test_values_of_64_kib_come_back_and_grow_no_more_than_documented(unit: str) -> None:
    value = (unit * 65_536)[:65_536]
    message = replace(PLAIN, params={"command": value})
    line = encode(message)
    assert decode(line) == message
    assert len(line) <= 8 * len(value.encode("utf-8", "surrogatepass")) + 2_048


@pytest.mark.parametrize(
    "change",
    [
        {"facility": 24}, {"facility": -1}, {"severity": 8}, {"host": ""}, {"host": "a b"}, {"host": "é"},
        {"host": "h" * 256}, {"app": "a" * 49}, {"procid": "1" * 129}, {"msgid": "m" * 33}, {"msgid": "a\nb"},
        {"at": datetime.fromisoformat("2026-01-01T00:00:00")},
        {"at": datetime.fromisoformat("0001-01-01T00:00:00+01:00")},
        {"params": {"": "x"}}, {"params": {"a b": "x"}}, {"params": {"a=": "x"}}, {"params": {"n" * 33: "x"}},
        {"params": {"nested": "x"}}, {"params": {"é": "x"}}, {"params": {"a\n": "x"}},
        {"nested": {"a": float("nan")}}, {"nested": {"a": b""}}, {"nested": {"a": 10**5000}},
        {"other_sd": "x"}, {"other_sd": "[x@1"}, {"other_sd": "[x@1] "}, {"other_sd": "[relay@55555]"},
        {"other_sd": "[x@1][x@1]"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_is_not_rfc_5424_is_not_written(change: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        encode(replace(PLAIN, **change))


def test_a_time_of_any_zone_is_written_in_utc() -> None:
    at = datetime.fromisoformat("2026-11-23T17:00:00.5+01:30")
    assert b" 2026-11-23T15:30:00.500000Z " in encode(replace(PLAIN, at=at))


def test_a_refusal_never_quotes_the_line() -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        decode(b"<165>1 - hunter2 hunter2 - - hunter2")
    assert "hunter2" not in refused.value.message + refused.value.advice


def outcome(read: Any, what: Any) -> Any:
    try:
        return read(what)
    except RemoteProtocolError as refused:
        return refused.message


def stranger(line: bytes) -> dict[str, str]:
    """Read the first SD-ELEMENT as somebody else's program would: character by character."""
    rest = line.decode("utf-8").split(" ", 6)[6]
    params: dict[str, str] = {}
    if rest.startswith("-"):
        return params
    at = rest.index("relay@55555") + len("relay@55555")
    while rest[at] == " ":
        equals = rest.index("=", at)
        name, value, at = rest[at + 1 : equals], "", equals + 2
        while rest[at] != '"':
            if rest[at] == "\\" and rest[at + 1] in '"\\]':
                at += 1
            else:
                assert rest[at] != "]"
            value += rest[at]
            at += 1
        params[name] = value
        at += 1
    assert rest[at] == "]"
    return params
