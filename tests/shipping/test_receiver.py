"""The receiver's machine, told as conversations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import LocalProtocolError, RemoteProtocolError, Unavailable
from decnet_core.shipping.control import (
    MAX_LINE_BYTES,
    MAX_OFFSET,
    Ack,
    Hello,
    Ping,
    Reason,
    Refuse,
    Resume,
    Skip,
    encode_control,
)
from decnet_core.shipping.receiver import End, Limits, Receiver, Resolve, Send, State, Store
from decnet_core.syslog.framing import encode_frame, encode_frames

STREAM = "0123456789abcdef" * 2
LIMITS = Limits(hello_secs=15, silence_secs=120)
HELLO = encode_control(Hello(STREAM))


def opened(offset: int = 0) -> Receiver:
    receiver = Receiver(LIMITS, 0)
    assert receiver.receive(HELLO, 0) == [Resolve(STREAM)]
    assert receiver.resumed(offset) == [Send(encode_control(Resume(offset)))]
    return receiver


def test_lines_become_one_block_and_are_acknowledged_once_committed() -> None:
    receiver = opened(10)
    assert receiver.receive(encode_frames([b"ab", b"c"]), 1) == [Store(STREAM, 10, 15, b"ab\nc\n")]
    assert receiver.pending_bytes == 5
    assert receiver.receive(encode_control(Ping()), 1) == [Send(encode_control(Ack(10)))]
    assert receiver.committed(15) == [Send(encode_control(Ack(15)))]
    assert receiver.committed(15) == []
    assert receiver.pending_bytes == 0


def test_a_hole_stands_between_its_neighbours() -> None:
    data = encode_frame(b"ab") + encode_control(Skip(100)) + encode_frame(b"c")
    assert opened().receive(data, 1) == [
        Store(STREAM, 0, 3, b"ab\n"),
        Store(STREAM, 3, 103, b""),
        Store(STREAM, 103, 105, b"c\n"),
    ]


def test_the_next_stream_on_the_same_connection() -> None:
    receiver = opened()
    receiver.receive(encode_frame(b"ab"), 1)
    assert receiver.receive(encode_control(Hello("f" * 32)), 1) == [Resolve("f" * 32)]
    assert receiver.committed(3) == [Send(encode_control(Ack(3)))], "of the stream before, ahead of its RESUME"
    assert receiver.resumed(7) == [Send(encode_control(Resume(7)))]
    assert receiver.receive(encode_frame(b"ab"), 1) == [Store("f" * 32, 7, 10, b"ab\n")]


@pytest.mark.parametrize(
    ("before", "wrong"),
    [
        ("waiting", encode_frame(b"line")),
        ("waiting", encode_control(Ping())),
        ("waiting", encode_control(Skip(1))),
        ("waiting", b"GET / HTTP/1.1\r\n"),
        ("resolving", encode_frame(b"line")),
        ("resolving", HELLO),
        ("resolving", encode_control(Ping())),
        ("open", encode_control(Resume(0))),
        ("open", encode_control(Ack(0))),
        ("open", encode_control(Refuse(Reason.BUSY))),
        ("open", encode_frame(b"two\nlines")),
        ("open", encode_frame(b"\nnonsense")),
        ("open", b"%d " % (MAX_LINE_BYTES + 1)),
        ("open", b"0 "),
    ],
)
def test_what_does_not_fit_ends_the_connection(before: str, wrong: bytes) -> None:
    receiver = Receiver(LIMITS, 0)
    if before != "waiting":
        receiver.receive(HELLO, 0)
    if before == "open":
        receiver.resumed(0)
    send, end = receiver.receive(wrong, 1)
    assert send == Send(encode_control(Refuse(Reason.PROTOCOL)))
    assert isinstance(end, End)
    assert isinstance(end.error, RemoteProtocolError)
    assert receiver.receive(HELLO, 1) == receiver.tick(999) == receiver.refuse(Reason.BUSY) == receiver.resumed(0) == []
    assert receiver.committed(0) == []


@pytest.mark.parametrize("wrong", [encode_frame(b"a\nb"), encode_frame(b"\nBYE"), b"x"])
def test_good_lines_before_a_broken_frame_are_stored(wrong: bytes) -> None:
    first, *_, last = opened().receive(encode_frames([b"ab", b"cd"]) + wrong, 1)
    assert first == Store(STREAM, 0, 6, b"ab\ncd\n")
    assert isinstance(last, End)


def test_lines_up_to_the_last_offset_that_can_be_counted_are_stored() -> None:
    start = MAX_OFFSET - 5
    lines = encode_frames([b"ab", b"c", b"d"])
    *stored, refused, end = opened(start).receive(lines, 1)
    assert [(piece.start, piece.end, piece.data) for piece in stored] == [(start, MAX_OFFSET, b"ab\nc\n")]
    assert refused == Send(encode_control(Refuse(Reason.PROTOCOL)))
    assert isinstance(end, End)


def test_being_superseded_is_told() -> None:
    receiver = opened()
    send, end = receiver.refuse(Reason.SUPERSEDED)
    assert send == Send(encode_control(Refuse(Reason.SUPERSEDED)))
    assert isinstance(end, End)
    assert receiver.state is State.ENDED


@pytest.mark.parametrize(("receiver", "secs"), [(Receiver(LIMITS, 0), 15), (opened(), 120)])
def test_silence_is_not_waited_out(receiver: Receiver, secs: float) -> None:
    assert receiver.tick(secs) == []
    _, end = receiver.tick(secs + 1)
    assert isinstance(end, End)
    assert isinstance(end.error, Unavailable)


def test_misuse_is_our_own_error() -> None:
    with pytest.raises(LocalProtocolError):
        opened().resumed(0)
    receiver = opened(10)
    receiver.receive(encode_frame(b"ab"), 0)
    for offset in (9, 14):
        with pytest.raises(LocalProtocolError):
            receiver.committed(offset)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_are_taken_without_another_error(pieces: list[bytes]) -> None:
    receiver = opened()
    for piece in pieces:
        receiver.receive(piece, 1)
