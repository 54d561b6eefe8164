"""Records of the kernel: what an attacker writes into a text never becomes another record or another field."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.tap import decoding
from decnet_agent.tap.programs import Kind
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
