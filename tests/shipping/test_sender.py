"""The sender's machine, told as conversations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import LocalProtocolError, RemoteProtocolError, Unavailable
from decnet_core.shipping.control import MAX_LINE_BYTES, Ack, Hello, Ping, Reason, Refuse, Resume, Skip, encode_control
from decnet_core.shipping.sender import Acked, Begin, End, Limits, Refused, Send, Sender, Skipped, State

STREAM = "0123456789abcdef" * 2
LIMITS = Limits(greeting_secs=30, ack_secs=60, quiet_secs=20, window_bytes=100)


def shipping(offset: int = 0) -> Sender:
    sender = Sender(LIMITS)
    sender.hello(STREAM, 0)
    assert sender.receive(encode_control(Resume(offset)), 0) == [Begin(offset)]
    return sender


def ended(commands: list[object]) -> Exception:
    (end,) = commands
    assert isinstance(end, End)
    return end.error


def test_a_stream_is_resumed_shipped_and_acknowledged() -> None:
    sender = Sender(LIMITS)
    assert sender.hello(STREAM, 0) == [Send(encode_control(Hello(STREAM)))]
    assert sender.room_bytes == 0
    assert sender.receive(encode_control(Resume(10)), 0) == [Begin(10)]
    assert sender.lines(b"ab\nc\n", 1) == [Send(b"2 ab1 c")]
    assert (sender.acked, sender.sent, sender.room_bytes) == (10, 15, 95)
    assert sender.receive(encode_control(Ack(13)), 2) == [Acked(13)]
    assert sender.receive(encode_control(Ack(13)), 2) == []
    assert sender.receive(encode_control(Ack(15)), 2) == [Acked(15)]


def test_answers_may_come_in_any_pieces() -> None:
    sender = shipping()
    sender.lines(b"ab\n", 1)
    commands = [command for byte in encode_control(Ack(3)) for command in sender.receive(bytes([byte]), 1)]
    assert commands == [Acked(3)]


def test_the_next_stream_waits_until_all_is_acknowledged() -> None:
    sender = shipping()
    sender.lines(b"ab\n", 1)
    with pytest.raises(LocalProtocolError):
        sender.hello(STREAM, 2)
    sender.receive(encode_control(Ack(3)), 2)
    assert sender.hello("f" * 32, 3) == [Send(encode_control(Hello("f" * 32)))]
    assert sender.receive(encode_control(Ack(3)), 4) == [], "the answer to a PING before HELLO"
    assert sender.receive(encode_control(Resume(0)), 4) == [Begin(0)]


def test_what_no_frame_can_hold_becomes_a_hole() -> None:
    sender = shipping()
    long = b"x" * (MAX_LINE_BYTES + 1)
    commands = sender.lines(b"a\n\n" + long + b"\nb\n", 1)
    assert commands == [
        Send(b"1 a"),
        Send(encode_control(Skip(1))),
        Skipped(2, 1),
        Send(encode_control(Skip(len(long) + 1))),
        Skipped(3, len(long) + 1),
        Send(b"1 b"),
    ]
    assert sender.sent == 3 + len(long) + 1 + 2
    assert sender.skip(5, 1) == [Send(encode_control(Skip(5))), Skipped(sender.sent - 5, 5)]


def test_lines_only_between_resume_and_the_end() -> None:
    for sender in (Sender(LIMITS), shipping()):
        if sender.state is State.SHIPPING:
            sender.receive(b"garbage", 0)
        with pytest.raises(LocalProtocolError):
            sender.lines(b"a\n", 0)
        with pytest.raises(LocalProtocolError):
            sender.skip(1, 0)
    with pytest.raises(LocalProtocolError):
        shipping().lines(b"half", 0)


@pytest.mark.parametrize(
    "wrong",
    [
        encode_control(Ack(99)),
        encode_control(Ack(3)),
        encode_control(Resume(4)),
        encode_control(Ping()),
        encode_control(Hello(STREAM)),
        b"3 abc",
        b"x",
        b"999 ",
    ],
)
def test_what_does_not_fit_ends_the_connection(wrong: bytes) -> None:
    sender = shipping(4)
    sender.lines(b"ab\n", 1)
    assert isinstance(ended(sender.receive(wrong, 2)), RemoteProtocolError)
    assert sender.receive(encode_control(Ack(7)), 3) == []
    assert sender.tick(1000) == []


def test_a_refusal_names_its_reason() -> None:
    error = ended(shipping().receive(encode_control(Refuse(Reason.HOST)), 1))
    assert isinstance(error, Refused)
    assert error.reason == Reason.HOST


@pytest.mark.parametrize("more", [b"x", encode_control(Ack(9)), encode_control(Refuse(Reason.HOST)), b"3 abc"])
def test_a_refusal_is_the_last_word_whatever_comes_with_it(more: bytes) -> None:
    error = ended(shipping().receive(encode_control(Refuse(Reason.BUSY)) + more, 1))
    assert isinstance(error, Refused)
    assert error.reason == Reason.BUSY


def test_hello_is_answered_in_time_or_given_up() -> None:
    sender = Sender(LIMITS)
    sender.hello(STREAM, 100)
    assert sender.tick(130) == []
    assert isinstance(ended(sender.tick(131)), Unavailable)


def test_only_progress_counts_while_something_is_unacknowledged() -> None:
    sender = shipping()
    sender.lines(b"ab\n", 10)
    sender.lines(b"cd\n", 60)
    assert sender.tick(25) == [Send(encode_control(Ping()))]
    sender.receive(encode_control(Ack(0)), 65)  # alive, but nothing moves
    assert isinstance(ended(sender.tick(71)), Unavailable)
    sender = shipping()
    sender.lines(b"ab\n", 10)
    sender.lines(b"cd\n", 60)
    sender.receive(encode_control(Ack(3)), 65)
    assert not any(isinstance(command, End) for command in sender.tick(71))


def test_a_quiet_connection_is_asked_for_a_sign_of_life() -> None:
    sender = shipping()
    assert sender.tick(20) == []
    assert sender.tick(21) == [Send(encode_control(Ping()))]
    assert sender.tick(22) == [], "one question at a time"
    sender.receive(encode_control(Ack(0)), 23)
    assert sender.tick(44) == [Send(encode_control(Ping()))]
    assert isinstance(ended(sender.tick(105)), Unavailable)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_answer_is_taken_without_another_error(pieces: list[bytes]) -> None:
    sender = shipping()
    for piece in pieces:
        for command in sender.receive(piece, 1):
            assert isinstance(command, Acked | End)
