"""Draw inputs: pure noise, soups of a target's tokens, and mutations of what is known to reach far.

Everything comes from the `Random` that is handed in, so an input can be made again from its batch's seed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

MAX_BYTES = 4096
"""Of nearly all inputs: what is wrong shows in small ones, and small ones are many."""

LARGE_BYTES = 64 << 10
ONE_IN_LARGE = 2000

_NUMBERS = (
    b"0", b"1", b"00", b"-1", b"+1", b"1_0", b"65535", b"65536", b"2147483648", b"4294967295", b"9999999", b"10000000",
    b"9223372036854775807", b"9223372036854775808", b"18446744073709551615", b"18446744073709551616",
    "\u0663".encode(), "\uff11".encode(), "\u00b2".encode(), b"9" * 30, b"1e309", b"NaN", b"-0", b"0x10",
)  # fmt: skip

_NASTY = (
    b"\0", b"\n", b"\r\n", b"\r", b"\t", b" ", b'"', b"\\", b"]", b"[", b'"]', b"\x1b[2J", b"\x1b]0;x\x07", b"\x7f",
    b"\x85", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xef\xbb\xbf", b"\xe2\x80\xae", b"\xff", b"\xc3",
    b"\xed\xa0\x80", b"\xed\xb0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98\x80", b"\\ud800", b"\\u0000", b"\xff" * 8,
)  # fmt: skip

_DIGITS = re.compile(rb"[0-9]+")


class Mutator:
    """Draws inputs for one target."""

    def __init__(self, known: Sequence[bytes], tokens: Sequence[bytes], random: Random) -> None:
        self._known = known or (b"",)
        self._tokens = (*tokens, *_NUMBERS, *_NASTY)
        self._random = random
        self._ways = (
            self._flip, self._flip, self._set, self._insert, self._insert, self._replace, self._cut, self._double,
            self._number, self._splice, self._swap,
        )  # fmt: skip

    def draw(self) -> bytes:
        """Draw one input."""
        random = self._random
        dice = random.random()
        if dice < 0.02:
            return random.randbytes(random.randrange(64))
        if dice < 0.1:
            return b"".join(random.choices(self._tokens, k=random.randrange(12)))
        data = random.choice(self._known)
        for _ in range(1 + int(random.expovariate(0.5))):
            data = random.choice(self._ways)(data)
        if random.randrange(ONE_IN_LARGE) == 0:
            return (data * (LARGE_BYTES // max(len(data), 1) + 1))[:LARGE_BYTES]
        return data[:MAX_BYTES]

    def _span(self, data: bytes) -> tuple[int, int]:
        start = self._random.randrange(len(data) + 1)
        return start, min(len(data), start + 1 + int(self._random.expovariate(0.2)))

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return data
        at = self._random.randrange(len(data))
        return data[:at] + bytes((data[at] ^ (1 << self._random.randrange(8)),)) + data[at + 1 :]

    def _set(self, data: bytes) -> bytes:
        at = self._random.randrange(len(data) + 1)
        return data[:at] + bytes((self._random.randrange(256),)) + data[at + 1 :]

    def _insert(self, data: bytes) -> bytes:
        at = self._random.randrange(len(data) + 1)
        return data[:at] + self._random.choice(self._tokens) + data[at:]

    def _replace(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:start] + self._random.choice(self._tokens) + data[end:]

    def _cut(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:start] + data[end:]

    def _double(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:end] + data[start:end] * self._random.randrange(1, 4) + data[end:]

    def _number(self, data: bytes) -> bytes:
        found = list(_DIGITS.finditer(data))
        if not found:
            return self._insert(data)
        match = self._random.choice(found)
        number = self._random.choice((*_NUMBERS, b"%d" % (int(match[0][:18]) + self._random.choice((-1, 1)))))
        return data[: match.start()] + number + data[match.end() :]

    def _splice(self, data: bytes) -> bytes:
        other = self._random.choice(self._known)
        return data[: self._random.randrange(len(data) + 1)] + other[self._random.randrange(len(other) + 1) :]

    def _swap(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[end:] + data[start:end] + data[:start]
