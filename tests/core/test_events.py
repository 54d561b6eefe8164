from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import LocalProtocolError, RemoteProtocolError
from decnet_core.events import CATALOGUE, Event, EventType, Trust, check, cursor_key, event_id, from_syslog, to_syslog
from decnet_core.syslog.rfc5424 import SyslogMessage, decode, encode
from tests.codec.strategies import texts

AT = datetime(2026, 11, 23, 17, 0, 0, 123456, tzinfo=UTC)
FALLBACK = {"fallback_source": "journal:1", "fallback_cursor": "7", "received_at": AT}
EVENT = Event(
    at=AT,
    decky="web-1",
    service="ssh",
    event_type=EventType.LOGIN_FAILED,
    trust=Trust.GUEST,
    source="container:1",
    cursor="5",
    fields={"user": "root"},
)

# What a header slot can hold: decky, service; one that is "-" alone says nothing.
slots = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=48)
ports = st.none() | st.integers(0, 0xFFFF)


@st.composite
def events(draw):
    event_type = draw(st.sampled_from(EventType))
    spec = CATALOGUE[event_type]
    optional = draw(st.sets(st.sampled_from(spec.optional))) if spec.optional else set()
    return Event(
        at=draw(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))),  # noqa: DTZ001
        decky=draw(slots),
        service=draw(slots),
        event_type=event_type,
        trust=draw(st.sampled_from(Trust)),
        source=draw(texts),
        cursor=draw(texts),
        src_ip=draw(st.none() | texts),
        src_port=draw(ports),
        dst_ip=draw(st.none() | texts),
        dst_port=draw(ports),
        session=draw(st.none() | texts),
        pid=draw(st.none() | st.integers(0, 1 << 22)),
        fields={name: draw(texts) for name in [*spec.required, *sorted(optional)]},
        text=draw(texts),
    )


@given(events())
def test_an_event_comes_back_from_the_wire_as_it_was(event):
    line = encode(to_syslog(event))
    assert b"\n" not in line
    back = from_syslog(decode(line), **FALLBACK)
    assert back == event
    assert back.id == event.id


@given(st.binary(max_size=300) | st.binary(max_size=200).map(b"<165>1 - h a 1 m ".__add__))
def test_any_line_is_an_event_or_a_remote_error(line):
    try:
        event = from_syslog(decode(line), **FALLBACK)
    except RemoteProtocolError:
        return
    assert len(event.id) == 32


def message(**params):
    return SyslogMessage(facility=1, severity=6, host="fw", app="kernel", params=params, message="x")


def test_a_strangers_line_gets_the_place_where_it_was_found():
    event = from_syslog(message(user="root"), **FALLBACK)
    assert (event.source, event.cursor, event.at) == ("journal:1", "7", AT)
    assert (event.trust, event.event_type, event.fields) == (Trust.GUEST, EventType.GUEST_LINE, {"user": "root"})


def test_an_identifier_is_made_here_and_never_taken():
    event = from_syslog(message(id="f" * 32, source="s", cursor="1"), **FALLBACK)
    assert event.id == event_id("s", "1") != "f" * 32


@pytest.mark.parametrize(
    "params",
    [{"trust": "root"}, {"trust": ""}, {"src_port": "65536"}, {"dst_port": "-1"}, {"src_port": "٣"}, {"src_port": ""}],
)
def test_what_an_event_cannot_be(params):
    with pytest.raises(RemoteProtocolError):
        from_syslog(message(**params), **FALLBACK)


@given(texts, texts)
def test_every_place_has_an_identifier(source, cursor):
    assert len(event_id(source, cursor)) == 32


def test_identifiers_are_stable():
    """They stand in databases and exports: another way to make them would count every event twice."""
    assert event_id("container:1", "5") == "d45192feb2d0e0873074a6bcff74d93b"
    assert event_id("a", "bc") != event_id("ab", "c")


@pytest.mark.parametrize(
    ("event_type", "fields"),
    [
        ("login.imagined", {}),
        (EventType.LOGIN_FAILED, {}),
        (EventType.LOGIN_FAILED, {"user": "root", "colour": "red"}),
        (EventType.GUEST_LINE, {"source": "x"}),
    ],
)
def test_our_own_emitters_are_held_to_the_catalogue(event_type, fields):
    wrong = Event(AT, "web-1", "ssh", event_type, Trust.SENSOR, "s", "1", fields=fields)
    with pytest.raises(LocalProtocolError):
        check(wrong)
    with pytest.raises(LocalProtocolError):
        to_syslog(wrong)


def test_a_newer_workers_type_is_taken_as_it_is():
    line = encode(SyslogMessage(facility=20, severity=5, at=AT, host="web-1", app="ssh", msgid="love.declared"))
    assert from_syslog(decode(line), **FALLBACK).event_type == "love.declared"


def test_cursors_are_ordered_as_numbers():
    ordered = ["2", "10", "10.1", "10.1.0.99999999999999999999", "10.2"]
    assert sorted(set(ordered), key=cursor_key) == ordered


@pytest.mark.parametrize("cursor", ["", ".", "1.", "a", "-1", "1.2.3.4.5", "٣", "1" * 21, " 1"])
def test_what_is_no_cursor(cursor):
    with pytest.raises(RemoteProtocolError):
        cursor_key(cursor)


def test_severities_are_those_of_syslog():
    for spec in CATALOGUE.values():
        assert 0 <= spec.severity <= 7
