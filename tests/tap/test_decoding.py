"""Records of the kernel: what an attacker writes into a text never becomes another record or another field."""

from __future__ import annotations

import shlex
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.tap import decoding
from decnet_agent.tap.programs import SOCKET_BYTES, Kind
from decnet_core.errors import RemoteProtocolError
from tests.tap.records import packed, record

WORDS = st.lists(st.binary(max_size=40).filter(lambda word: b"\0" not in word), min_size=1, max_size=8)


@given(st.binary(max_size=600))
def test_any_bytes_are_a_record_or_a_named_error(data: bytes) -> None:
    try:
        decoding.decode(data)
    except RemoteProtocolError:
        return


@given(WORDS, st.binary(max_size=32))
def test_arguments_come_back_as_they_were_whatever_they_hold(words: list[bytes], padding: bytes) -> None:
    text = b"".join(word + b"\0" for word in words)
    got = decoding.decode(packed(Kind.EXECUTED, text=text, padding=padding))
    assert decoding.arguments(got) == words


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20), min_size=1))
def test_a_command_line_splits_into_its_arguments_again(words: list[str]) -> None:
    line = decoding.command_line([word.encode() for word in words], cut=False)
    assert shlex.split(line) == words


@given(st.binary(max_size=64).filter(lambda line: b"\0" not in line))
def test_a_typed_line_is_never_invalid_text(line: bytes) -> None:
    shown = decoding.typed_line(record(Kind.ENTERED, text=line + b"\0").text)
    assert shown.encode("utf-8").decode("utf-8") == shown


def test_a_newline_in_an_argument_stays_inside_it() -> None:
    forged = b"x\n<13>1 - - sshd 1 login.succeeded - root\n"
    got = decoding.decode(packed(Kind.EXECUTED, text=b"echo\0" + forged + b"\0"))
    assert decoding.arguments(got) == [b"echo", forged]
    assert got.kind is Kind.EXECUTED


def test_a_cut_command_says_so() -> None:
    assert decoding.command_line([b"a" * 10], cut=True).endswith("…")
    assert len(decoding.command_line([b"a" * 100_000], cut=False)) == decoding.COMMAND_CHARACTERS + 1


def test_bytes_that_are_no_text_are_shown() -> None:
    assert decoding.readable(b"caf\xc3\xa9 \xff") == "café \\xff"


def test_a_text_longer_than_its_record_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        decoding.decode(packed(Kind.ENTERED, text=b"abc")[:-1])


def _socket(family: int, state: int, peer: str, own: str) -> bytes:
    ports = struct.pack("=H", 22) + struct.pack(">H", 40000)
    packed4 = packed6 = b""
    if family == socket.AF_INET:
        packed4 = socket.inet_aton(peer) + socket.inet_aton(own)
    else:
        packed6 = socket.inet_pton(socket.AF_INET6, peer) + socket.inet_pton(socket.AF_INET6, own)
    return struct.pack("=HBx", family, state) + ports + packed4.ljust(8, b"\xee") + packed6.ljust(32, b"\xee")


@pytest.mark.parametrize(
    ("family", "state", "peer", "flow"),
    [
        (socket.AF_INET, 1, "10.0.0.9", decoding.Flow("10.0.0.9", 40000, "10.0.0.9", 22)),
        (socket.AF_INET, 8, "10.0.0.9", decoding.Flow("10.0.0.9", 40000, "10.0.0.9", 22)),  # the peer has closed
        (socket.AF_INET, 10, "10.0.0.9", None),  # listens
        (socket.AF_INET6, 1, "fe80::1", decoding.Flow("fe80::1", 40000, "fe80::1", 22)),
        (socket.AF_INET6, 1, "::ffff:10.0.0.9", decoding.Flow("10.0.0.9", 40000, "10.0.0.9", 22)),
    ],
)
def test_a_connection_is_read_from_the_kernels_socket(
    family: int, state: int, peer: str, flow: decoding.Flow | None
) -> None:
    assert record(Kind.EXECUTED, socket=_socket(family, state, peer, peer)).flow == flow


@pytest.mark.parametrize("family", [0, socket.AF_UNIX, 0xFFFF])
def test_what_is_no_connection_of_the_internet_is_none(family: int) -> None:
    data = struct.pack("=HB", family, 1).ljust(SOCKET_BYTES, b"\xff")
    assert record(Kind.EXECUTED, socket=data).flow is None
