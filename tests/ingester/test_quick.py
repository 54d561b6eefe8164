"""The quick reader and the long way give the same rows, wherever the quick one does not give up."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import RemoteProtocolError
from decnet_core.events import Event, EventType, Trust, to_syslog
from decnet_core.syslog.rfc5424 import encode
from decnet_master.ingester import quick
from decnet_master.ingester.lines import long_row
from decnet_master.ingester.quick import quick_row
from decnet_master.journal.reader import Batch, Position
from decnet_master.store.tally import TELLING
from decnet_master.store.values import micros

NOW = datetime(2026, 11, 23, 12, 30, 15, 123456, tzinfo=UTC)
LINE = (
    b'<164>1 2026-11-23T12:30:15.123456Z web-1 ssh 7 login.failed [relay@55555 id="x" source="container" cursor="1.0"'
    b' trust="sensor" src_ip="192.0.2.7" src_port="4711" dst_ip="2001:DB8::1" dst_port="22" session="s" user="root"'
    b' password="pa ss"] words of the log'
)

any_text = st.text(st.characters(exclude_categories=[]), max_size=12) | st.sampled_from(
    ["-", "root", "a\\b", 'q"q', "]"]
)
events = st.builds(
    Event,
    at=st.datetimes(timezones=st.just(UTC)),
    decky=st.sampled_from(["web-1", "db", "x" * 255]),
    service=st.sampled_from(["ssh", "telnet"]),
    event_type=st.just(EventType.LOGIN_FAILED.value),
    trust=st.sampled_from(Trust),
    source=any_text,
    cursor=any_text,
    src_ip=st.none() | st.sampled_from(["192.0.2.7", "::1", "2001:DB8::1", "nobody", ""]),
    src_port=st.none() | st.integers(0, 65535),
    dst_ip=st.none() | st.just("192.0.2.1"),
    dst_port=st.none() | st.integers(0, 70000),
    session=st.none() | any_text,
    pid=st.none() | st.integers(0, 1 << 64),
    fields=st.fixed_dictionaries({"user": any_text}, optional={"password": any_text, "method": any_text}),
    text=any_text,
)


def same(line: bytes) -> bool:
    """Hold the quick row to the long way's; tell whether there is a quick one."""
    found = quick_row(line, "w1", micros(NOW))
    if found is None:
        return False
    batch = Batch("logship@w1", "s", 5, 5 + len(line) + 1, NOW, (line,), Position(1, 1))
    row = long_row(batch, "w1", 5, line)  # raises for a line that is none: then the quick one judged wrongly
    record, fields = found
    assert record == row.record()
    if record[6] in TELLING:
        assert fields == row.event.fields
    return True


def test_a_line_of_ours_is_read_quickly() -> None:
    assert same(LINE)
    assert same(LINE.replace(b" words of the log", b""))
    assert same(LINE.replace(b"login.failed", b"-"))


@given(events)
def test_both_read_every_event_alike(event: Event) -> None:
    same(encode(to_syslog(event)))


@given(
    st.integers(0, len(LINE)),
    st.integers(0, 12),
    st.binary(max_size=6) | st.sampled_from([b'"', b"]", b'" a="', b" ", b"\\", b'\\"', b"\\]", b"\\\\", b"\2"]),
)
def test_both_read_every_mutation_alike(at: int, cut: int, put: bytes) -> None:
    same(LINE[:at] + put + LINE[at + cut :])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"2026-11-23T12", b"2026-11-23T24"),
        (b"2026-11-23", b"2026-02-30"),
        (b".123456Z", b".12345Z"),
        (b".123456Z", b".123456+00:00"),
        (b"<164>1", b"<192>1"),
        (b"<164>1", b"<0164>1"),
        (b' src_port="4711"', b' src_port="70000"'),
        (b"192.0.2.7", b"nobody"),
        (b"192.0.2.7", b""),
        (b' user="root"', b' user="root" user="admin"'),
        (b' user="root"', b' nested="e30="'),
        (b' user="root"', b' us er="root"'),
        (b' user="root"', b'  user="root"'),
        (b'trust="sensor"', b'trust="absolute"'),
        (b' cursor="1.0"', b""),
        (b' source="container"', b""),
        (b"] words", b"]words"),
        (b"] words", b'][other@1 a="b"] words'),
        (b"[relay@55555", b"[relay@5555"),
        (b"pa ss", b"pa\\ss"),
        (b"pa ss", b"pa\\"),
        (b"pa ss", b"\\"),
        (b"pa ss", b"pa\\]\x01ss"),
        (b' user="root"', b' us\\]er="root"'),
        (b"pa ss", b"pa]ss"),
        (b"pa ss", b"pa\0ss"),
        (b"pa ss", b"pa\x1ass"),
        (b"pa ss", b"pa\xffss"),
        (b"web-1", b"w" * 256),
        (b"web-1", "wéb".encode()),
        (b"login.failed", b"t" * 33),
        (b" ssh 7 ", b" ssh 99999999999999999999 "),
        (b" ssh 7 ", b" ssh seven "),
    ],
    ids=repr,
)
def test_it_gives_up_what_it_is_not_sure_of(old: bytes, new: bytes) -> None:
    assert old in LINE
    line = LINE.replace(old, new)
    assert quick_row(line, "w1", 0) is None


@pytest.mark.parametrize(
    "password", [rb"pa\]ss", rb"\"", rb"\\", rb"\\\"", rb"\\\\\]", rb"\"\]\\ x=\"y\"", rb"\] x"], ids=repr
)
def test_escapes_are_read_quickly_too(password: bytes) -> None:
    assert same(LINE.replace(b"pa ss", password))
    assert same(LINE.replace(b"pa ss", password).replace(b"words", rb'C:\\words \" \] \ "] \x'))
    assert same(LINE.replace(b"words", password))


def test_words_beyond_ascii_are_read_quickly_too() -> None:
    assert same(LINE.replace(b"words", "\ufeffwörds".encode()))
    assert same(LINE.replace(b"pa ss", "pä\u00a0ß".encode()))


def test_made_up_names_are_not_remembered_for_ever() -> None:
    for number in range(quick._SHAPES._bound + 100):
        assert same(LINE.replace(b"user=", b"user%d=" % number))
    assert len(quick._SHAPES) <= quick._SHAPES._bound


def test_a_line_that_is_none_is_refused_by_the_long_way_alone() -> None:
    with pytest.raises(RemoteProtocolError):
        long_row(Batch("logship@w1", "s", 0, 8, NOW, (b"garbage",), Position(1, 1)), "w1", 0, b"garbage")
    assert quick_row(b"garbage", "w1", 0) is None
