"""Recordings as text: whatever bytes come in whatever pieces, all can be had back, and every line is the format's."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from decnet_agent.tap import asciicast
from decnet_agent.tap.asciicast import Cast
from tests.evidence.casts import read

BEGUN = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

pieces = st.lists(
    st.tuples(
        st.booleans(),
        st.binary(max_size=30) | st.text(max_size=8).map(lambda text: text.encode("utf-8", "replace")),
        st.floats(0, 1e6),
    ),
    max_size=12,
)


@given(pieces)
@example([(False, b"\xe2\x82", 0.0), (True, b"\xe2", 1.0), (False, b"\xac", 0.5), (True, b"x", 2.0)])
@example([(False, b"\xff\xe2\x82", 0.0)])
@example([(False, b"\r\n\x1b[2J\x00\x85\xe2\x80\xa8", 0.0)])
def test_every_byte_comes_back_in_order(given_pieces: list[tuple[bool, bytes, float]]) -> None:
    cast = Cast(80, 24)
    data = asciicast.header(cast, BEGUN, "a title", {})
    for typed, piece, at_secs in given_pieces:
        cast, lines = asciicast.transferred(cast, at_secs, piece, typed=typed)
        data += lines
    data += asciicast.ended(cast)
    recorded = read(data)
    assert recorded.shown == b"".join(piece for typed, piece, _ in given_pieces if not typed)
    assert recorded.typed == b"".join(piece for typed, piece, _ in given_pieces if typed)


def test_text_needs_no_second_form_and_a_cut_character_waits() -> None:
    cast, first = asciicast.transferred(Cast(), 1.0, "a€".encode()[:-1], typed=False)
    cast, second = asciicast.transferred(cast, 2.0, "€".encode()[-1:] + b"b", typed=False)
    assert (first, second) == (b'[1.0,"o","a"]\n', '[2.0,"o","€b"]\n'.encode())
    assert asciicast.ended(cast) == b""


def test_a_size_is_told_when_it_changes_and_is_one() -> None:
    cast, lines = asciicast.resized(Cast(80, 24), 1.0, 80, 24)
    assert lines == b""
    cast, lines = asciicast.resized(cast, 1.0, 0, 0)
    assert lines == b""
    cast, lines = asciicast.resized(cast, 1.5, 100, 30)
    assert lines == b'[1.5,"r","100x30"]\n'
    assert (cast.columns, cast.rows) == (100, 30)


def test_a_terminal_without_a_size_has_the_usual_one() -> None:
    header = read(asciicast.header(Cast(), BEGUN, "t", {"decky": "web-01"})).header
    assert (header["width"], header["height"], header["timestamp"]) == (80, 24, int(BEGUN.timestamp()))
    assert header["about"] == {"decky": "web-01"}
