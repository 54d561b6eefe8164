"""What a target is, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from decnet_core.errors import DecnetError


@dataclass(frozen=True, slots=True)
class Target:
    """One parser under fire.

    Attributes:
        name: of the target and of its folder in the corpus.
        check: takes any bytes; raises, whatever it may be, when a promise does not hold.
        seeds: inputs that reach the parser's insides.
        tokens: pieces that mean something to the parser, for the mutations.
        share: how many of the frames it gets, relative to the others; less for a target that needs a disk or a loop.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...]
    share: int = 10


class Broken(AssertionError):
    """A promise of a parser does not hold."""


def hold(promise: object, words: str) -> None:
    """Raise unless the promise holds; unlike `assert` it also stands under `python -O`."""
    if not promise:
        raise Broken(words)


def outcome(read: Callable[[Any], Any], what: Any, error: type[DecnetError]) -> Any:
    """Return what a parser says: its result, or the words of its own error; any other exception goes through."""
    try:
        return read(what)
    except error as refused:
        return (type(refused), refused.message)


def is_refusal(result: Any) -> bool:
    """Tell whether `outcome` saw a refusal."""
    return isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], type)


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    """Cut bytes into pieces of one size."""
    return (data[at : at + size] for at in range(0, len(data), size))
