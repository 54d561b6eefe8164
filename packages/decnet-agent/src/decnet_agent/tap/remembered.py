"""Tables that know what changed in them, so that `memory` can write that down and a later tap find it again.

A table is an ordered dictionary whose order is that of the last writing: the first is the one that was written longest
ago. Keys and values go to text and back by the two functions of its `Codec`; text from the disk that a codec cannot
read is a RemoteProtocolError, never another exception.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from decnet_core.errors import RemoteProtocolError

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Codec(Generic[V]):
    """How one kind of value is written as something that JSON knows, and read again."""

    write: Callable[[V], Any]
    read: Callable[[Any], V]


PLAIN: Codec[Any] = Codec(lambda value: value, lambda data: data)
"""Texts and numbers."""
NUMBERS: Codec[Any] = Codec(list, lambda data: tuple(int(number) for number in data))
"""Tuples of numbers."""
BYTES: Codec[bytes] = Codec(lambda value: value.decode("latin-1"), lambda data: data.encode("latin-1"))


class Remembered(Generic[K, V]):
    """One table.

    Args:
        name: among all tables of a tap.
        bound: entries beyond it push out the oldest; None leaves that to the owner.
    """

    def __init__(self, name: str, keys: Codec[K], values: Codec[V], bound: int | None = None) -> None:
        self.name = name
        self._keys, self._values, self._bound = keys, values, bound
        self._rows: OrderedDict[K, V] = OrderedDict()
        self._changed: dict[K, None] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[K]:
        return iter(self._rows)

    def __contains__(self, key: K) -> bool:
        return key in self._rows

    def get(self, key: K) -> V | None:
        """Look up."""
        return self._rows.get(key)

    def items(self) -> list[tuple[K, V]]:
        """List all, the oldest first."""
        return list(self._rows.items())

    def values(self) -> list[V]:
        """List all, the oldest first."""
        return list(self._rows.values())

    def put(self, key: K, value: V) -> None:
        """Write an entry; it is the youngest now."""
        self._rows[key] = value
        self._rows.move_to_end(key)
        self._changed[key] = None
        while self._bound is not None and len(self._rows) > self._bound:
            self.pop_oldest()

    def pop(self, key: K) -> None:
        """Take an entry out, if it is there."""
        if self._rows.pop(key, None) is not None:
            self._changed[key] = None

    def clear(self) -> None:
        """Empty it, as if nothing had ever been in it."""
        self._rows.clear()
        self._changed.clear()

    def pop_oldest(self) -> None:
        """Take the oldest entry out."""
        key, _ = self._rows.popitem(last=False)
        self._changed[key] = None

    def changes(self) -> list[tuple[str, str | None]]:
        """Give what changed since the last call, as text; None for what is gone."""
        found = [
            (_text(self._keys.write(key)), _text(self._values.write(self._rows[key])) if key in self._rows else None)
            for key in self._changed
        ]
        self._changed.clear()
        return found

    def all_changed(self) -> None:
        """Let `changes` give everything."""
        self._changed = dict.fromkeys(self._rows)

    def restore(self, rows: list[tuple[str, str]]) -> None:
        """Take what was written down, the oldest first.

        Raises:
            RemoteProtocolError: it is nothing that this table wrote.
        """
        try:
            for key, value in rows:
                self._rows[self._keys.read(json.loads(key))] = self._values.read(json.loads(value))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as cause:
            raise RemoteProtocolError(f"What was remembered as {self.name} cannot be read") from cause


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
