"""Read a recording: an asciicast, with the exact bytes where its texts cannot hold them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decnet_core.events import Event


@dataclass(frozen=True)
class Recorded:
    """A recording's header and its events."""

    header: dict[str, Any]
    events: list[tuple[float, str, str]]

    @property
    def shown(self) -> bytes:
        return b"".join(self._bytes("o"))

    @property
    def typed(self) -> bytes:
        return b"".join(self._bytes("i"))

    def of(self, code: str) -> list[str]:
        return [text for _, each, text in self.events if each == code]

    def _bytes(self, code: str) -> Iterator[bytes]:
        exact: bytes | None = None
        for _, each, text in self.events:
            if each == "x" and text.startswith(f"{code}:"):
                exact = base64.b64decode(text.partition(":")[2], validate=True)
            elif each == code:
                yield text.encode() if exact is None else exact
                exact = None


def read(data: bytes) -> Recorded:
    """Read a whole file; every line must be one of the format's."""
    first, *lines = data.decode().removesuffix("\n").split("\n")
    header, events = json.loads(first), [tuple(json.loads(line)) for line in lines]
    assert header["version"] == 2
    assert all(isinstance(at, int | float) and code in "oirmx" and isinstance(text, str) for at, code, text in events)
    assert [at for at, _, _ in events] == sorted(at for at, _, _ in events)
    return Recorded(header, events)


def recorded(quarantine: Path, event: Event) -> Recorded:
    """Read what an event of a recording tells of."""
    return read((quarantine / event.fields["stored_as"]).read_bytes())
