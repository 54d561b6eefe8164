"""What the words of a rule mean: runs a ruleset over a frame, as the kernel does."""

from __future__ import annotations

import struct

from decnet_agent.containment import expressions as words
from decnet_agent.containment.ruleset import Chain, Ruleset


def verdict(ruleset: Ruleset, hook: int, device: str, frame: bytes) -> str:
    """Return what becomes of a frame at a device's hook: `accept`, `drop` or `forward`."""
    chains = {chain.name: chain for chain in ruleset.chains}
    for chain in ruleset.chains:
        if (chain.hook, chain.device) == (hook, device):
            decided = _run(chain, chains, {each.name: each.keys for each in ruleset.sets}, frame)
            if decided is not None and decided != "accept":
                return decided
    return "accept"


def _run(chain: Chain, chains: dict[str, Chain], sets: dict[str, frozenset[bytes]], frame: bytes) -> str | None:
    for rule in chain.rules:
        decided = _rule(rule, chains, sets, frame)
        if decided is not None:
            return decided
    return None


def _rule(  # noqa: C901 - one case for each word
    rule: tuple[words.Expression, ...], chains: dict[str, Chain], sets: dict[str, frozenset[bytes]], frame: bytes
) -> str | None:
    registers = bytearray(64)
    lengths = {name: {len(key) for key in keys} for name, keys in sets.items()}
    for word in rule:
        match word:
            case words.Payload(base, offset, length, at):
                start = _start(base, frame)
                if start is None or start + offset + length > len(frame):
                    return None
                padded = length + -length % 4
                registers[at * 4 : at * 4 + padded] = frame[start + offset :][:length].ljust(padded, b"\0")
            case words.Protocol(3):
                registers[:4] = frame[12:14].ljust(4, b"\0")
            case words.Protocol():
                if not _is_ip(frame):
                    return None
                registers[:4] = frame[23:24].ljust(4, b"\0")
            case words.Masked(mask):
                for number, byte in enumerate(mask):
                    registers[number] &= byte
            case words.Compare(value, equal):
                if (bytes(registers[: len(value)]) == value) is not equal:
                    return None
            case words.Lookup(name, found):
                if any(bytes(registers[:length]) in sets[name] for length in lengths[name]) is not found:
                    return None
            case words.Jump(target):
                return _run(chains[target], chains, sets, frame)
            case words.Accept():
                return "accept"
            case words.Drop():
                return "drop"
            case words.Forward():
                return "forward"
            case words.Within() | words.Count():
                continue
    return None


def _start(base: int, frame: bytes) -> int | None:
    if base == words.LINK:
        return 0
    if base == words.NETWORK:
        return 14
    if not _is_ip(frame) or struct.unpack_from(">H", frame, 20)[0] & 0x1FFF:
        return None
    return 14 + (frame[14] & 15) * 4


def _is_ip(frame: bytes) -> bool:
    return len(frame) >= 34 and frame[12:14] == b"\x08\0" and frame[14] >> 4 == 4 and frame[14] & 15 >= 5
