"""Control frames: written and read back, and nothing else is one."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import LocalProtocolError, RemoteProtocolError
from decnet_core.shipping.control import (
    MAX_OFFSET,
    Ack,
    Control,
    Hello,
    Ping,
    Reason,
    Refuse,
    Resume,
    Skip,
    decode_control,
    encode_ack,
    encode_control,
    is_control,
)

STREAM = "0123456789abcdef" * 2
offsets = st.integers(0, MAX_OFFSET)
controls = st.one_of(
    st.just(Ping()),
    st.builds(Hello, st.text("0123456789abcdef", min_size=32, max_size=32)),
    st.builds(Skip, st.integers(1, MAX_OFFSET)),
    st.builds(Resume, offsets),
    st.builds(Ack, offsets),
    st.builds(Refuse, st.sampled_from([reason.value for reason in Reason])),
)


@given(controls)
def test_what_is_written_is_read_back(control: Control) -> None:
    payload = encode_control(control).partition(b" ")[2]
    assert is_control(payload)
    assert decode_control(payload) == control


@given(st.integers(-2, MAX_OFFSET + 2))
def test_an_acknowledgement_is_the_same_by_both_ways(offset: int) -> None:
    def written(encode: Callable[[], bytes]) -> bytes | None:
        try:
            return encode()
        except LocalProtocolError:
            return None

    assert written(lambda: encode_ack(offset)) == written(lambda: encode_control(Ack(offset)))


def test_the_bytes_are_those_of_the_specification() -> None:
    assert encode_control(Hello(STREAM)) == b"39 \nHELLO " + STREAM.encode()
    assert encode_control(Ping()) == b"5 \nPING"
    assert encode_control(Skip(7)) == b"7 \nSKIP 7"
    assert encode_control(Resume(0)) == b"9 \nRESUME 0"
    assert encode_control(Ack(123)) == b"8 \nACK 123"
    assert encode_control(Refuse(Reason.HOST)) == b"12 \nREFUSE host"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\n",
        b"PING",
        b"\nPING ",
        b"\nping",
        b"\nACK",
        b"\nACK ",
        b"\nACK 01",
        b"\nACK -1",
        b"\nACK 9223372036854775808",
        b"\nACK 1 2",
        b"\nSKIP 0",
        b"\nHELLO " + STREAM[:-1].encode(),
        b"\nHELLO " + STREAM.upper().encode(),
        b"\nHELLO plain-0001",
        b"\nREFUSE Host",
        b"\nREFUSE " + b"x" * 80,
        b"\nBYE",
        b"\nACK \xb2",
    ],
)
def test_anything_else_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_control(payload)


@given(st.binary(max_size=80))
def test_any_payload_is_a_control_frame_or_refused(payload: bytes) -> None:
    for data in (payload, b"\n" + payload):
        try:
            control = decode_control(data)
        except RemoteProtocolError:
            continue
        assert encode_control(control).partition(b" ")[2] == data


@pytest.mark.parametrize(
    "wrong", [Hello("x"), Skip(0), Ack(-1), Resume(MAX_OFFSET + 1), Refuse("No!"), Hello("é" * 32)]
)
def test_a_malformed_one_of_ours_is_our_own_error(wrong: Control) -> None:
    with pytest.raises(LocalProtocolError):
        encode_control(wrong)
