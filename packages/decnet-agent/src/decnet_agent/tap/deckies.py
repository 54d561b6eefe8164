"""Learn which deckies run: the list that the agent keeps for us, read anew whenever it changes.

`<run-directory>/deckies.json` is a JSON array; each element names a decky (`name`), its container (`container_id`) and
the container's first process on the host (`pid1`). The agent replaces the file atomically. Other members are the
agent's own and are passed over. A file that cannot be read leaves the last list standing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from decnet_core.errors import RemoteProtocolError
from decnet_core.identity import is_host_name

MAX_LIST_BYTES = 4 << 20
"""A thousand deckies of 1 KiB each, four times."""


@dataclass(frozen=True, slots=True)
class RunningDecky:
    """A decky whose container runs."""

    name: str
    container_id: str
    pid1: int


class DeckyList:
    """The file, and what it said last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> list[RunningDecky] | None:
        """Read the list if it changed since the last call, else give None; no file is no change.

        Raises:
            RemoteProtocolError: it holds something else; it is not read again before it changes.
        """
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen:
                return None
            self._seen = seen
            with self._path.open("rb") as file:
                data = file.read(MAX_LIST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as cause:
            raise RemoteProtocolError(f"Cannot read {self._path}: {cause.strerror}") from cause
        return parse(data)


def parse(data: bytes) -> list[RunningDecky]:
    """Read the list.

    Raises:
        RemoteProtocolError: it is not such a list.
    """
    try:
        rows = json.loads(data) if len(data) <= MAX_LIST_BYTES else None
    except (ValueError, RecursionError):
        rows = None
    if not isinstance(rows, list):
        raise RemoteProtocolError("The list of deckies is not a JSON array")
    return [_decky(row) for row in rows]


def _decky(row: object) -> RunningDecky:
    if not isinstance(row, dict):
        raise RemoteProtocolError("The list of deckies holds something that is no object")
    name, container_id, pid1 = row.get("name"), row.get("container_id"), row.get("pid1")
    if not isinstance(name, str) or not is_host_name(name):
        raise RemoteProtocolError("The list of deckies has an element without a proper name")
    if not isinstance(container_id, str) or not container_id.isalnum() or len(container_id) > 128:
        raise RemoteProtocolError(f"The list of deckies has no proper container_id for {name}")
    if not isinstance(pid1, int) or isinstance(pid1, bool) or not 1 < pid1 < 1 << 22 or pid1 == os.getpid():
        raise RemoteProtocolError(f"The list of deckies has no proper pid1 for {name}")
    return RunningDecky(name, container_id, pid1)
