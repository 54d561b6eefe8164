"""A fleet declared as INI: the same tables as in TOML, for `fleet_file` to judge.

    # on one worker
    [vault-01]
    services = ssh, http
    host = w1

    [files]                    ; with a count it is a group: files-01 to files-12
    count = 12
    labels = site=hq rack=2    ; or hosts = w1 w2

A section is a decky, named by its title; one with a `count` is a group, and its title the prefix. Lists are words with
commas or spaces between them. A comment begins with `#` or `;`, at a line's start or after a space. There are no lines
that go on, no shared section and no values in quotes: whatever is none of the above is told with its line.

This module does no IO. It knows where each value stands, as `toml_lines` does for TOML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_COMMENT = re.compile(r"(?:^|\s)[#;].*")
_LISTS = frozenset({"services", "sometimes", "hosts"})
_TITLES = {"decky": "name", "group": "prefix"}
_MAX_DIGITS = 9


class IniFleet:
    """What a text declares.

    Attributes:
        tables: as `tomllib` would give them; whatever was at fault is left out.
        faults: what is not as this module says, each with its line.
    """

    def __init__(self, text: str) -> None:
        self.faults: list[tuple[int, str]] = []
        self._lines: dict[tuple[str | int, ...], int] = {}
        self.tables: dict[str, list[dict[str, Any]]] = {"decky": [], "group": []}
        for title, line, values in self._sections(text):
            self._add(title, line, values)

    def of(self, path: Sequence[str | int]) -> int:
        """Return the line of a value, or of the nearest thing around it that stands somewhere; 1 if nothing does."""
        wanted = tuple(path)
        while wanted and wanted not in self._lines:
            wanted = wanted[:-1]
        return self._lines.get(wanted, 1)

    def _sections(self, text: str) -> list[tuple[str, int, dict[str, tuple[int, str]]]]:
        found: list[tuple[str, int, dict[str, tuple[int, str]]]] = []
        # Only these end a line: a value may hold what else `splitlines` splits at.
        for number, raw in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
            line = _COMMENT.sub("", raw).strip()
            if not line:
                continue
            if line.startswith("[") and line.endswith("]"):
                found.append((line[1:-1].strip(), number, {}))
                continue
            key, equals, value = (part.strip() for part in line.partition("="))
            if not equals or not key:
                self.faults.append((number, "this is neither [name] nor key = value"))
            elif not found:
                self.faults.append((number, f"{key!r} stands before the first [name]"))
            elif key in found[-1][2]:
                self.faults.append((number, f"{key}: it is said already, in line {found[-1][2][key][0]}"))
            else:
                found[-1][2][key] = number, value
        return found

    def _add(self, title: str, line: int, values: dict[str, tuple[int, str]]) -> None:
        kind = "group" if "count" in values else "decky"
        at = kind, len(self.tables[kind])
        table: dict[str, Any] = {}
        self._lines[at] = self._lines[(*at, _TITLES[kind])] = line
        for key, (number, value) in values.items():
            self._lines[(*at, key)] = number
            if key in _TITLES.values():
                self.faults.append((number, f"{key}: the section's title says it"))
            table[key] = self._value(key, value, number)
        self.tables[kind].append(table | {_TITLES[kind]: title})

    def _value(self, key: str, value: str, line: int) -> object:
        words = value.replace(",", " ").split()
        if key in _LISTS:
            return words
        if key == "count" and value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
            return int(value)
        if key != "labels":
            return value
        labels: dict[str, str] = {}
        for word in words:
            label, equals, said = word.partition("=")
            if not equals or label in labels:
                what = "said already" if equals else "no KEY=VALUE"
                self.faults.append((line, f"labels: {word!r} is {what}"))
            labels[label] = said
        return labels
