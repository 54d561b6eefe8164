"""No input makes a parser take more than linear time: eight times the bytes, at most three times eight the time.

What is quadratic takes 64 times as long. The least of a few runs counts, in the process's own time, so that a busy
machine changes nothing; inputs are the shapes that make naive parsers look twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from decnet_agent.evidence.guest_lines import read_line
from decnet_core.errors import RemoteProtocolError
from decnet_core.shipping.receiver import Limits, Receiver
from decnet_core.syslog.framing import FrameDecoder
from decnet_core.syslog.rfc5424 import decode
from decnet_core.syslog.source_address import source_address_of
from tests.fuzz.target import chunks
from tests.fuzz.targets.shipping import _HELLO

GROWTH = 8
ALLOWED = 3 * GROWTH
SMALL_BYTES = 8 << 10
RUNS = 3

HEAD = b"<165>1 - h a - - "
AT = datetime(2026, 11, 23, tzinfo=UTC)


def read(line: bytes) -> None:
    try:
        decode(line)
    except RemoteProtocolError:
        return


def guest(line: bytes) -> None:
    read_line(line, at=AT, decky="d", source="s", cursor="1")


def address(text: bytes) -> None:
    source_address_of(text.decode("latin-1"))


def framed(stream: bytes) -> None:
    decoder = FrameDecoder(1 << 20)
    for piece in chunks(b"%d " % len(stream) + stream, 16):
        decoder.feed(piece)


def received(stream: bytes) -> None:
    machine = Receiver(Limits(), 0.0)
    machine.receive(_HELLO, 0.0)
    machine.resumed(0)
    for piece in chunks(stream, 64):
        machine.receive(piece, 0.0)


@pytest.mark.parametrize(
    ("parse", "start", "piece"),
    [
        (read, HEAD + b"[relay@55555", b' a="\\\\"'),
        (read, HEAD + b'[relay@55555 a="', b'\\"'),
        (read, HEAD + b'[relay@55555 a="', b"\\"),
        (read, HEAD, b"[x@1]"),
        (read, HEAD, b'[x a="]'),
        (read, HEAD + b'[relay@55555 nested="', b"W1tb"),
        (read, HEAD + b"- ", b"\xff"),
        (read, b"", b"<165>1 "),
        (read, b"", b" "),
        (address, b"", b"from 1.1.1.1 port "),
        (address, b"", b"from ::::::::"),
        (address, b"", b"src=1.1.1.1."),
        (address, b"src=", b"1"),
        (guest, b"", b"<86>1 2026-11-23T"),
        (guest, b"<86>1 - h sshd 1 - - Connection closed by user x", b" 1.1.1.1 port 1:1: "),
        (guest, b"<86>1 - h sudo 1 - - a : TTY=x ; PWD=", b" ; USER=a ; ENV= ; COMMAND"),
        (guest, b'<86>1 - h sshd 1 - [relay@55555 a="', b'\\"'),
        (framed, b"", b"x"),
        (received, b"", b"1 a"),
        (received, b"", b"7 \nSKIP 1"),
        (received, b"", b"5 \nPING"),
    ],
)
def test_time_grows_as_the_input_does(parse: Callable[[bytes], None], start: bytes, piece: bytes) -> None:
    small, large = (start + piece * (size // len(piece)) for size in (SMALL_BYTES, SMALL_BYTES * GROWTH))
    assert least_secs(parse, large) <= ALLOWED * max(least_secs(parse, small), 1e-5)


def least_secs(parse: Callable[[bytes], None], data: bytes) -> float:
    """Time a parser, at its best."""
    taken = []
    for _ in range(RUNS):
        began = time.process_time()
        parse(data)
        taken.append(time.process_time() - began)
    return min(taken)
