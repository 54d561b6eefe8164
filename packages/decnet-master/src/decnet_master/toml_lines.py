"""Where a value of a TOML document stands: the parser of the standard library does not say.

A document is taken apart into its statements (headers and `key = value`), each of which is TOML by itself and may go
over several lines; the parser decides where one ends. Only a text that was parsed as a whole comes here. Values
that are nested deeper than anything of ours have the line of what is around them.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

Path = tuple[str | int, ...]

MAX_DEPTH = 8
"""Of a path that is told apart; a fault in a fleet file is four deep at most."""

_ENDS = ("]", '"""', "'''")
"""What the last line of a statement over several lines holds: they are arrays and multi-line strings (TOML 1.0). Asking
the parser at every line of a long array would take it the square of its length."""


class TomlLines:
    """The lines of a document's values."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        table: Path = ()
        arrays: Counter[Path] = Counter()
        for line, is_header, document in _statements(text):
            if not is_header:
                for path in _paths(document, table):
                    self._lines.setdefault(path, line)
                continue
            keys, is_array = _header(document)
            table = _resolved(keys[:-1] if is_array else keys, arrays)
            if is_array:
                table = (*table, keys[-1])
                self._lines.setdefault(table, line)
                arrays[table] += 1
                table = (*table, arrays[table] - 1)
            self._lines.setdefault(table, line)

    def of(self, path: Sequence[str | int]) -> int:
        """Return the line of a value, or of the nearest thing around it that stands somewhere; 1 if nothing does."""
        wanted = tuple(path)
        while wanted and wanted not in self._lines:
            wanted = wanted[:-1]
        return self._lines.get(wanted, 1)


def _statements(text: str) -> Iterator[tuple[int, bool, dict[str, Any]]]:
    begun, pending = 0, ""
    # Only these end a line in TOML; a value may hold what else `splitlines` splits at.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not pending:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            begun = number
        elif not any(end in line for end in _ENDS):
            pending += line + "\n"
            continue
        pending += line + "\n"
        try:
            document = tomllib.loads(pending)
        except (tomllib.TOMLDecodeError, RecursionError):  # the latter where the whole text just got through
            continue
        yield begun, pending.lstrip().startswith("["), document
        pending = ""


def _header(document: dict[str, Any]) -> tuple[tuple[str, ...], bool]:
    """Return the keys of a header, and whether it begins an element of an array."""
    keys: list[str] = []
    inner: Any = document
    while isinstance(inner, dict) and inner and len(keys) < MAX_DEPTH:
        ((key, inner),) = inner.items()
        keys.append(key)
    return tuple(keys), isinstance(inner, list)


def _resolved(keys: Sequence[str], arrays: Counter[Path]) -> Path:
    """Write a header's keys as a path: a key that names an array means its last element."""
    path: Path = ()
    for key in keys:
        path = (*path, key)
        if arrays[path]:
            path = (*path, arrays[path] - 1)
    return path


def _paths(value: Any, at: Path) -> Iterator[Path]:
    if not isinstance(value, dict) or len(at) >= MAX_DEPTH:
        return
    for key, inner in value.items():
        yield (*at, key)
        yield from _paths(inner, (*at, key))
