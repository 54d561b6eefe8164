"""Frames: round trips, arbitrary chunking, totality, bounds."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import LocalProtocolError, RemoteProtocolError
from decnet_core.syslog.framing import LARGEST_FRAME_BYTES, FrameDecoder, encode_frame, encode_frames

payload_lists = st.lists(st.binary(min_size=1, max_size=30), max_size=12)
streams = payload_lists.map(encode_frames) | st.lists(
    st.sampled_from(
        [b"3 abc", b"1 ", b"0 ", b"01 a", b"12", b" ", b"9", b"99999999 ", b"+3 abc", b"1_0 ", b"\n", b"21 "]
    )
    | st.binary(max_size=4),
    max_size=10,
).map(b"".join)


def chunks_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


def run(decoder: FrameDecoder, chunks: list[bytes]) -> tuple[list[bytes], bool, int]:
    """Feed everything; return all payloads, whether the decoder died, and what it still holds."""
    payloads: list[bytes] = []
    for chunk in chunks:
        try:
            payloads += decoder.feed(chunk)
        except RemoteProtocolError:
            assert decoder.error is not None
    return payloads, decoder.error is not None, decoder.pending_bytes


def test_frame_is_length_space_payload() -> None:
    assert encode_frame(b"\nPING") == b"5 \nPING"
    assert encode_frames([b"a", b"bc" * 6]) == b"1 a12 bcbcbcbcbcbc"
    assert encode_frames([]) == b""


@given(payloads=payload_lists, cuts=st.lists(st.integers(0, 500), max_size=8))
def test_any_chunking_gives_the_payloads_back(payloads: list[bytes], cuts: list[int]) -> None:
    assert run(FrameDecoder(30), chunks_of(encode_frames(payloads), cuts)) == (payloads, False, 0)


@given(stream=streams, cuts=st.lists(st.integers(0, 100), max_size=8), bound=st.integers(1, 40))
def test_any_bytes_mean_the_same_however_they_are_cut(stream: bytes, cuts: list[int], bound: int) -> None:
    whole = run(FrameDecoder(bound), [stream])
    assert run(FrameDecoder(bound), chunks_of(stream, cuts)) == whole
    assert run(FrameDecoder(bound), [bytes([octet]) for octet in stream]) == whole
    # An unfinished frame is bounded by its digits, the space and the bound less one byte.
    assert whole[2] <= len(str(bound)) + bound


@pytest.mark.parametrize(
    "stream",
    [
        b"x", b" 1 a", b"0 ", b"01 a", b"-1 a", b"+1 a", b"1_0 aaaaaaaaaa", b"1\t", b"\xb2 a", b"7", b"66 ",
        b"<165>1 - ", b"999999999",
    ],
)  # fmt: skip
def test_a_bad_length_is_refused_as_soon_as_it_is_seen(stream: bytes) -> None:
    decoder = FrameDecoder(6)
    with pytest.raises(RemoteProtocolError):
        decoder.feed(stream)
    assert decoder.pending_bytes == 0


def test_payloads_before_a_bad_frame_are_returned_and_the_decoder_is_dead() -> None:
    decoder = FrameDecoder(100)
    assert decoder.feed(b"1 a2 bcGET / HTTP/1.1\r\n") == [b"a", b"bc"]
    assert decoder.error is not None
    for data in (b"", b"1 a", b"1 a"):
        with pytest.raises(RemoteProtocolError):
            decoder.feed(data)


def test_a_torn_frame_shows_as_pending_bytes() -> None:
    decoder = FrameDecoder(100)
    assert decoder.feed(b"5 hello10 half") == [b"hello"]
    assert decoder.pending_bytes == len(b"10 half")
    assert decoder.feed(b"-frame1") == [b"half-frame"[:10]]
    assert decoder.pending_bytes == 1


def test_an_announced_length_allocates_nothing() -> None:
    decoder = FrameDecoder(LARGEST_FRAME_BYTES)
    assert decoder.feed(b"9999999 ") == []
    assert decoder.pending_bytes == 8


def test_a_large_frame_in_single_bytes_costs_linear_time() -> None:
    stream = encode_frame(b"\0" * 524_288)
    decoder = FrameDecoder(524_288)
    began = time.process_time()
    payloads = [payload for at in range(len(stream)) for payload in decoder.feed(stream[at : at + 1])]
    assert payloads == [b"\0" * 524_288]
    # Takes 0.3 s; joining what is there with every byte that comes would move 137 GB.
    assert time.process_time() - began < 3


@pytest.mark.parametrize("payload", [b"", b"x" * (LARGEST_FRAME_BYTES + 1)], ids=["empty", "too large"])
def test_a_frame_that_nobody_could_read_is_not_written(payload: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        encode_frame(payload)


@pytest.mark.parametrize("bound", [0, -1, LARGEST_FRAME_BYTES + 1])
def test_a_bound_must_make_sense(bound: int) -> None:
    with pytest.raises(LocalProtocolError):
        FrameDecoder(bound)
