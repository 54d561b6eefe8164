"""Who has to go when too many are there: never the newest, always one of the fullest address."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.crowd import Crowd


class Wire(asyncio.Transport):
    """A transport that only remembers."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 4711)})
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class Heard(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard: list[object] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: ARG002
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.heard.append("lost")


class Place:
    """A crowd, and who is in it."""

    def __init__(self, size: int) -> None:
        self.inner: list[Heard] = []
        self.ended: list[str] = []
        self.crowd = Crowd(self._make, size, lambda: self.ended.append("one"))
        self.here: list[tuple[Wire, asyncio.Protocol]] = []

    def _make(self) -> Heard:
        self.inner.append(Heard())
        return self.inner[-1]

    def come(self, address: str) -> Wire:
        wire, member = Wire(address), self.crowd.enter()
        member.connection_made(wire)
        self.here = [(w, m) for w, m in (*self.here, (wire, member)) if not w.aborted]
        return wire


ADDRESSES = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]


@given(st.integers(1, 6), st.lists(st.sampled_from([*ADDRESSES, "leave"]), max_size=60))
def test_the_newest_stays_and_the_fullest_pays(size: int, moves: list[str]) -> None:
    place = Place(size)
    for move in moves:
        if move == "leave":
            if place.here:
                _, member = place.here.pop(0)
                member.connection_lost(None)
                member.connection_lost(None)
            continue
        before = Counter(_network(wire) for wire, _ in place.here) + Counter([_network_of(move)])
        known = [wire for wire, _ in place.here]
        wire = place.come(move)
        gone = [one for one in known if one.aborted]
        assert len(place.here) <= size
        assert not wire.aborted
        assert len(gone) == (1 if sum(before.values()) > size else 0)
        for one in gone:
            assert before[_network(one)] == max(before.values())
            assert one is next(other for other in known if _network(other) == _network(one))
    lost = sum(inner.heard.count("lost") for inner in place.inner)
    assert lost == len(place.inner) - len(place.here)


def test_one_address_with_all_places_keeps_nobody_out() -> None:
    place = Place(4)
    held = [place.come("192.0.2.66") for _ in range(4)]
    honest = place.come("192.0.2.7")
    assert [wire.aborted for wire in held] == [True, False, False, False]
    for _ in range(100):
        place.come("192.0.2.66")
    assert not honest.aborted
    assert len(place.ended) == 101


@pytest.mark.parametrize(("first", "second"), [("2001:db8::1", "2001:db8::ffff"), ("::ffff:192.0.2.1", "192.0.2.1")])
def test_spellings_of_one_neighbour_count_together(first: str, second: str) -> None:
    place = Place(3)
    kept = place.come("192.0.2.7")
    oldest = place.come(first)
    place.come(second)
    place.come("198.51.100.1")
    assert (oldest.aborted, kept.aborted) == (True, False)


def test_who_has_to_go_is_told_at_once_and_hears_nothing_more() -> None:
    place = Place(1)
    place.come("192.0.2.1")
    (_, first), heard = place.here[0], place.inner[0].heard
    first.data_received(b"a")
    place.come("192.0.2.1")
    first.data_received(b"b")
    assert first.eof_received() is None
    first.connection_lost(ConnectionAbortedError())
    assert heard == ["made", b"a", "lost"]


def _network(wire: Wire) -> str:
    return _network_of(wire.get_extra_info("peername")[0])


def _network_of(address: str) -> str:
    return address if "." in address else ":".join(address.split("::", maxsplit=1)[0].split(":")[:4])
