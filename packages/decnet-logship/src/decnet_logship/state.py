"""What `decnet-logship status` shows: written by the daemon for people, at most once a second.

`<data-directory>/logship/state.json`, written whole (temporary, fsync, rename, fsync of the folder). Nothing is ever
decided by it but one warning: that the master has less of a file than it acknowledged before.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from decnet_core.errors import NotFound, Unavailable
from decnet_core.pki.durable import PUBLIC_MODE, replace_file

_MAX_BYTES = 1 << 20


@dataclass(slots=True)
class State:
    """How shipping stands.

    Attributes:
        master: address that is dialled.
        connected: whether a stream is being shipped now.
        updated_at: ISO 8601, UTC.
        acked: generation of each file of the log -> offset that the master acknowledged.
        shipped_bytes, skipped_lines, connections, failures: since the daemon started.
        last_error: why the last connection ended.
    """

    master: str = ""
    connected: bool = False
    updated_at: str = ""
    acked: dict[str, int] = field(default_factory=dict)
    shipped_bytes: int = 0
    skipped_lines: int = 0
    connections: int = 0
    failures: int = 0
    last_error: str = ""

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            OSError: the folder cannot be written.
        """
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        replace_file(path, json.dumps(asdict(self), indent=1).encode() + b"\n", PUBLIC_MODE)


def acked_before(path: Path) -> dict[str, int]:
    """Read what was acknowledged when the daemon last wrote; nothing when the file is absent or damaged."""
    try:
        acked = read(path).get("acked", {})
    except (NotFound, Unavailable):
        return {}
    if not isinstance(acked, dict):
        return {}
    return {str(name): offset for name, offset in acked.items() if isinstance(offset, int)}


def read(path: Path) -> dict[str, Any]:
    """Read the file.

    Raises:
        NotFound: there is none: the daemon never ran here.
        Unavailable: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
    except FileNotFoundError:
        raise NotFound(f"There is no {path}", "Start decnet-logship; it writes it within a second.") from None
    except OSError as cause:
        advice = "Run as root, or as the user who runs decnet-logship."
        raise Unavailable(f"Cannot read {path}: {cause.strerror}", advice) from cause
    except (ValueError, RecursionError) as cause:
        raise Unavailable(f"{path} is damaged", "Its daemon writes it anew within a second.") from cause
    if not isinstance(document, dict):
        raise Unavailable(f"{path} is damaged", "Its daemon writes it anew within a second.")
    return document
