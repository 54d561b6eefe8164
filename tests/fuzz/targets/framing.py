"""Octet-counted frames: the same bytes in any chunking give the same payloads, the same end and the same remainder."""

from __future__ import annotations

import re
from collections.abc import Iterable

from decnet_core.errors import RemoteProtocolError
from decnet_core.syslog.framing import FrameDecoder, encode_frames
from tests.fuzz.target import Target, chunks, hold

_UNFINISHED = re.compile(rb"(?:([1-9][0-9]*)(?: (.*))?)?", re.DOTALL)

_BYTEWISE_BYTES = 400
"""Longer streams are not fed byte by byte as well: the pieces of seven say the same in a seventh of the time."""


def framing(data: bytes) -> None:
    """Two bytes of bound, one of chunk size, then the stream."""
    bound = 1 + int.from_bytes(data[:2])
    size = 1 + (data[2] if len(data) > 2 else 0)
    stream = data[3:]
    whole = _fed(bound, (stream,))
    _hold_to_the_grammar(bound, stream, *whole)
    for pieces in (size, 7, 1) if len(stream) <= _BYTEWISE_BYTES else (size, 7):
        hold(_fed(bound, chunks(stream, pieces)) == whole, f"pieces of {pieces} bytes mean something else")


def _fed(bound: int, pieces: Iterable[bytes]) -> tuple[list[bytes], bool, int]:
    decoder = FrameDecoder(bound)
    payloads: list[bytes] = []
    for piece in pieces:
        before = decoder.pending_bytes
        try:
            payloads += decoder.feed(piece)
        except RemoteProtocolError:
            hold(decoder.error is not None, "a decoder raised and says that it lives")
        hold(decoder.pending_bytes <= len(str(bound)) + bound, "an unfinished frame is larger than its bound")
        hold(decoder.pending_bytes <= before + len(piece), "a decoder holds more than it was fed")
    return payloads, decoder.error is not None, decoder.pending_bytes


def _hold_to_the_grammar(bound: int, stream: bytes, payloads: list[bytes], dead: bool, pending_bytes: int) -> None:
    """What was taken is the stream's beginning, and what was not is refused exactly when no byte could mend it."""
    taken = encode_frames(payloads)
    hold(stream.startswith(taken), "the payloads are not what the stream begins with")
    hold(all(0 < len(payload) <= bound for payload in payloads), "a payload is above the bound")
    rest = stream[len(taken) :]
    match = _UNFINISHED.fullmatch(rest)
    hopeful = match is not None and (
        match[1] is None or (int(match[1][:8]) <= bound and len(match[1]) < 8 and len(match[2] or b"") < int(match[1]))
    )
    hold(dead != hopeful, "a stream is given up that could go on" if dead else "a hopeless stream is waited for")
    hold(pending_bytes == (0 if dead else len(rest)), "the unfinished frame is not what is left")


TARGETS = (
    Target(
        "framing",
        framing,
        (
            b"\0\x40\x02" + encode_frames([b"hello", b"\nPING", b"x" * 30]),
            b"\xff\xff\x05" + encode_frames([b"a" * 200, b"b"]) + b"12 half",
            b"\0\x05\0" + b"3 abc0 ",
            b"\0\x05\0" + b"3 abc01 a",
        ),
        (b"1 a", b"10 ", b"3 abc", b"0 ", b"9999999 ", b"65536 ", b" ", b"+1 a", b"01 a"),
        30,
    ),
)
