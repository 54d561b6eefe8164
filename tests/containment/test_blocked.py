"""From blocked frames to events: every frame is counted, a flood is a few lines, and any bytes are read."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.containment.blocked import MOST_DESTINATIONS, WINDOW_SECS, Ledger
from decnet_agent.containment.frames import Frame, read_frame
from decnet_agent.containment.pairs import Pair
from decnet_core.events import Event, check

NOW = datetime(2026, 11, 1, tzinfo=UTC)
A = Pair(decky="a", mac="52:54:00:00:00:02", ip="10.0.0.2")
B = Pair(decky="b", mac="52:54:00:00:00:03", ip="10.0.0.3")


class Told:
    def __init__(self, **bounds: int) -> None:
        self.events: list[Event] = []
        self.ledger = Ledger(self.events.append, **bounds)
        self.ledger.know([A, B])

    def see(self, number: int = 1, *, secs: float = 0.0, **changed: object) -> None:
        values = {"source": A.mac, "target": "52:54:00:00:00:99", "protocol": "tcp", "source_ip": A.ip}
        values |= {"target_ip": IPv4Address("10.0.0.99"), "target_port": 445} | changed
        for _ in range(number):
            self.ledger.see(Frame(**values), NOW + timedelta(seconds=secs))  # type: ignore[arg-type]

    def turn(self, secs: float) -> None:
        self.ledger.turn(NOW + timedelta(seconds=secs))

    def said(self) -> list[tuple[str, str, str | None, int | None, str]]:
        for event in self.events:
            check(event)
        return [
            (event.decky, event.fields["count"], event.dst_ip, event.dst_port, event.fields["reason"])
            for event in self.events
        ]


def test_an_attempt_is_told_at_once_and_its_repetitions_when_the_window_ends():
    told = Told()
    told.see(4)
    assert told.said() == [("a", "1", "10.0.0.99", 445, "not-an-answer")]
    told.turn(WINDOW_SECS - 1)
    assert len(told.events) == 1
    told.turn(WINDOW_SECS)
    assert told.said()[1:] == [("a", "3", "10.0.0.99", 445, "not-an-answer")]
    assert told.events[1].fields["since"] == NOW.isoformat()
    told.see(secs=WINDOW_SECS + 1)
    assert len(told.events) == 3


def test_whose_a_frame_is():
    told = Told()
    told.see(source_ip=IPv4Address("10.9.9.9"))
    told.see(source="52:54:00:00:00:77")
    told.see(source="52:54:00:00:00:77", source_ip=IPv4Address("10.9.9.9"))
    told.see(source_ip=None, target_ip=None, target_port=None, protocol="ether-88b5")
    told.see(target=B.mac)
    assert [(decky, reason) for decky, _, _, _, reason in told.said()] == [
        ("a", "false-address"),
        ("a", "unknown-mac"),
        ("-", "unknown-mac"),
        ("a", "not-an-answer"),
        ("a", "not-an-answer"),
    ]
    assert told.events[-1].fields["sibling"] == "b"


def test_a_scan_is_a_hundred_events_and_a_sum():
    told = Told()
    for port in range(1000):
        told.see(target_port=port)
    assert len(told.events) == MOST_DESTINATIONS
    told.turn(WINDOW_SECS)
    assert told.said()[MOST_DESTINATIONS:] == [("a", str(1000 - MOST_DESTINATIONS), None, None, "many")]
    # the next window is a new one
    told.see(secs=WINDOW_SECS + 1)
    assert told.said()[-1][3] == 445


def test_many_deckies_together_take_a_bounded_room():
    told = Told(most_rows=1000)
    deckies = [
        Pair(
            decky=f"d{number}",
            mac=f"52:54:00:01:{number >> 8:02x}:{number & 255:02x}",
            ip=IPv4Address(0x0A010000 + number),
        )
        for number in range(1, 21)
    ]
    told.ledger.know(deckies)
    for pair in deckies:
        for port in range(MOST_DESTINATIONS):
            told.see(source=pair.mac, source_ip=pair.ip, target_port=port)
    assert len(told.events) == 1000
    told.ledger.finish(NOW)
    assert sum(int(event.fields["count"]) for event in told.events) == 20 * MOST_DESTINATIONS == told.ledger.total


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 90), st.sampled_from([A, B])), max_size=300))
def test_no_frame_is_counted_twice_or_not_at_all(seen):
    told = Told()
    for port, secs, pair in sorted(seen, key=lambda each: each[1]):
        told.turn(secs)
        told.see(source=pair.mac, source_ip=pair.ip, target_port=port, secs=secs)
    told.ledger.finish(NOW + timedelta(seconds=90))
    told.said()
    assert sum(int(event.fields["count"]) for event in told.events) == len(seen)


def test_what_was_tried_lately_can_be_asked_for():
    told = Told()
    told.see(3)
    told.see(source=B.mac, source_ip=B.ip)
    assert [(attempt.target_port, count) for attempt, count in told.ledger.recent("a").items()] == [(445, 3)]


@given(st.binary(max_size=160))
def test_any_bytes_are_read(data):
    frame = read_frame(data)
    assert (frame is None) == (len(data) < 14)
    if frame is not None:
        told = Told()
        told.ledger.see(frame, NOW)
        told.said()


@given(st.binary(min_size=12, max_size=12), st.sampled_from([0x0800, 0x0806, 0x86DD, 0x8100]), st.binary(max_size=100))
def test_the_beginnings_of_known_protocols_are_read_however_they_go_on(ends, kind, rest):
    frame = read_frame(ends + kind.to_bytes(2, "big") + rest)
    assert frame is not None
    assert (frame.target, frame.source) == (ends[:6].hex(":"), ends[6:].hex(":"))


def test_what_a_frame_says():
    ends = bytes.fromhex("020000000001020000000002")
    header = struct.pack(">BBHHHBBH", 0x46, 0, 60, 1, 0, 64, 17, 0) + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + bytes(4)
    frame = read_frame(ends + b"\x81\0\0\x05\x08\0" + header + struct.pack(">HHHH", 9, 53, 8, 0))
    assert frame == Frame(
        "02:00:00:00:00:02",
        "02:00:00:00:00:01",
        "udp",
        IPv4Address("10.0.0.1"),
        IPv4Address("10.0.0.2"),
        53,
        tagged=True,
    )
