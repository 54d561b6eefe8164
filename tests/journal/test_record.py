"""Records: whatever is written is read back, and any bytes at all give records or a RemoteProtocolError."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import LocalProtocolError, RemoteProtocolError
from decnet_core.syslog.framing import encode_frames
from decnet_master.journal.record import (
    Block,
    Kind,
    decode_block,
    decode_snapshot,
    encode_block,
    encode_snapshot,
    records,
)
from tests.journal.blocks import AT, block, hole

line = st.binary(min_size=1, max_size=40).filter(lambda data: b"\n" not in data)


@given(st.integers(0, 1 << 40), st.lists(line, min_size=1, max_size=5))
def test_a_block_of_lines_comes_back(start: int, lines: list[bytes]) -> None:
    written = block(start, *lines)
    (record,) = records(memoryview(encode_block(written)))
    assert decode_block(record) == written
    assert written.lines() == tuple(lines)


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5))
def test_frames_may_hold_any_byte(payloads: list[bytes]) -> None:
    data = encode_frames(payloads)
    written = Block("logship@w1", "plain-1", 0, len(data), AT, data, Kind.FRAMES)
    (record,) = records(memoryview(encode_block(written)))
    assert decode_block(record).lines() == tuple(payloads)


@pytest.mark.parametrize("broken", [b"x", b"1 a2 b", b"1 a07 b", b"1 a3", b"1 a1 b9999999999 c"])
def test_broken_frames_are_not_left_out_without_a_word(broken: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Block("logship@w1", "plain-1", 0, len(broken), AT, broken, Kind.FRAMES).lines()


def test_a_hole_has_an_extent_and_no_lines() -> None:
    (record,) = records(memoryview(encode_block(hole(5, 9))))
    assert decode_block(record) == hole(5, 9)
    assert hole(5, 9).lines() == ()


@pytest.mark.parametrize(
    "wrong",
    [
        Block("a@b", "s", 0, 3, AT, b"ab"),
        Block("a@b", "s", 3, 3, AT, b""),
        Block("a@b", "s", 0, 2, AT, b"ab"),
        Block("", "s", 0, 2, AT, b"a\n"),
        Block("a@b", "s" * 256, 0, 2, AT, b"a\n"),
        Block("a@b", "s", 0, 2, AT, b"a\n", Kind.HOLE),
        Block("a@b", "s", -1, 1, AT, b"a\n"),
    ],
)
def test_a_block_that_does_not_fit_is_our_own_error(wrong: Block) -> None:
    with pytest.raises(LocalProtocolError):
        encode_block(wrong)


def test_a_large_snapshot_is_split_and_comes_back() -> None:
    table = {(f"logship@worker-{number:05d}", "f" * 32): number for number in range(40_000)}
    found = list(records(memoryview(encode_snapshot(table))))
    parts = [decode_snapshot(record) for record in found]
    assert len(parts) > 1
    assert [more for more, _ in parts] == [True] * (len(parts) - 1) + [False]
    assert dict(entry for _, entries in parts for entry in entries) == table


@given(st.binary(max_size=200))
def test_any_bytes_are_records_or_refused(data: bytes) -> None:
    _read(data)


@given(st.data(), st.lists(line, min_size=1, max_size=3))
def test_a_changed_byte_is_never_believed(data: st.DataObject, lines: list[bytes]) -> None:
    good = encode_block(block(7, *lines))
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = bytes([good[at] ^ data.draw(st.integers(1, 255))])
    assert _read(good[:at] + flipped + good[at + 1 :]) == []


@given(st.integers(0, 60))
def test_a_cut_record_is_not_there_yet(cut: int) -> None:
    good = encode_block(block(7, b"one", b"two"))
    assert list(records(memoryview(good[: min(cut, len(good) - 1)]))) == []


def _read(data: bytes) -> list[object]:
    found: list[object] = []
    with contextlib.suppress(RemoteProtocolError):
        found.extend(
            decode_snapshot(record) if record.kind is Kind.SNAPSHOT else decode_block(record)
            for record in records(memoryview(data))
        )
    return found
