"""The words of an nf_tables rule, and how the kernel wants them: pure.

A rule is a row of expressions that are tried in turn; the first that does not hold ends it. They work on registers:
`Payload` loads bytes of the frame, `Compare`, `Masked` and `Lookup` test them, `Jump`, `Accept`, `Drop` and `Forward`
decide. Each knows its bytes; the tests know what each means, and run rules over frames.

Registers are counted in words of four bytes from 0; the kernel numbers them from `_REGISTER_WORDS` on, so that a key of
several fields lies in words that follow one another. Each field of a key is padded to whole words.
Source: include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from decnet_agent.containment.netlink import attribute, be32, be64, nested, text

LINK, NETWORK, TRANSPORT = 0, 1, 2
"""Where a payload is counted from."""

_REGISTER_WORDS = 8
_VERDICT_REGISTER = 0
_META_L4PROTO, _META_PROTOCOL = 16, 1
_DROP, _ACCEPT, _JUMP = 0, 1, -3
_NAME, _DATA, _LIST_ELEMENT = 1, 2, 1


@dataclass(frozen=True, slots=True)
class Payload:
    """Load bytes of the frame; a frame that has none there does not hold."""

    base: int
    offset: int
    length: int
    word: int = 0

    def packed(self) -> bytes:
        """Return the expression's bytes."""
        parts = (be32(1, _register(self.word)), be32(2, self.base), be32(3, self.offset), be32(4, self.length))
        return _expression("payload", *parts)


@dataclass(frozen=True, slots=True)
class Protocol:
    """Load what the kernel takes the frame for: `layer` 3 is its ether type (2 bytes), 4 that of IP (1 byte)."""

    layer: int

    def packed(self) -> bytes:
        """Return the expression's bytes."""
        key = _META_PROTOCOL if self.layer == 3 else _META_L4PROTO
        return _expression("meta", be32(1, _register(0)), be32(2, key))


@dataclass(frozen=True, slots=True)
class Masked:
    """Keep the bits of a mask of what was loaded."""

    mask: bytes

    def packed(self) -> bytes:
        """Return the expression's bytes."""
        length, nothing = len(self.mask), bytes(len(self.mask))
        registers = (be32(1, _register(0)), be32(2, _register(0)), be32(3, length))
        return _expression("bitwise", *registers, _value(4, self.mask), _value(5, nothing))


@dataclass(frozen=True, slots=True)
class Compare:
    """Hold if what was loaded is this, or is not."""

    value: bytes
    equal: bool = True

    def packed(self) -> bytes:
        """Return the expression's bytes."""
        return _expression("cmp", be32(1, _register(0)), be32(2, 0 if self.equal else 1), _value(3, self.value))


@dataclass(frozen=True, slots=True)
class Lookup:
    """Hold if the key from word 0 on is in a set, or is not."""

    name: str
    found: bool = True

    def packed(self) -> bytes:
        """Return the expression's bytes."""
        inverted = () if self.found else (be32(5, 1),)
        return _expression("lookup", text(1, self.name), be32(2, _register(0)), *inverted)


@dataclass(frozen=True, slots=True)
class Within:
    """Hold as long as the key from word 0 on stays below a rate, counted for each key by itself in a set."""

    name: str
    per_second: int
    burst: int

    def packed(self) -> bytes:
        """Return the expression's bytes."""
        rate = (be64(1, self.per_second), be64(2, 1), be32(3, self.burst), be32(4, 0))
        limit = nested(7, text(_NAME, "limit"), nested(_DATA, *rate))
        return _expression("dynset", text(1, self.name), be32(3, 1), be32(4, _register(0)), limit)


@dataclass(frozen=True, slots=True)
class Count:
    """Count frames and bytes; always holds."""

    def packed(self) -> bytes:
        """Return the expression's bytes."""
        return _expression("counter")


@dataclass(frozen=True, slots=True)
class Accept:
    """Let the frame go its way."""

    def packed(self) -> bytes:
        """Return the expression's bytes."""
        return _verdict(_ACCEPT)


@dataclass(frozen=True, slots=True)
class Drop:
    """End the frame."""

    def packed(self) -> bytes:
        """Return the expression's bytes."""
        return _verdict(_DROP)


@dataclass(frozen=True, slots=True)
class Jump:
    """Go on in another chain, and come back if it decides nothing."""

    chain: str

    def packed(self) -> bytes:
        """Return the expression's bytes."""
        return _verdict(_JUMP, text(2, self.chain))


@dataclass(frozen=True, slots=True)
class Forward:
    """Send the frame to another device instead; whoever sent it sees no difference."""

    index: int

    def packed(self) -> bytes:
        """Return the expressions' bytes."""
        device = _expression("immediate", be32(1, _register(0)), _value(2, struct.pack("=I", self.index)))
        return device + _expression("fwd", be32(1, _register(0)))


Expression = Payload | Protocol | Masked | Compare | Lookup | Within | Count | Accept | Drop | Jump | Forward


def _register(word: int) -> int:
    return _REGISTER_WORDS + word


def _value(kind: int, value: bytes) -> bytes:
    return nested(kind, attribute(1, value))


def _verdict(code: int, *more: bytes) -> bytes:
    return _expression("immediate", be32(1, _VERDICT_REGISTER), nested(2, nested(2, be32(1, code), *more)))


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(_LIST_ELEMENT, text(_NAME, name), nested(_DATA, *parts))
