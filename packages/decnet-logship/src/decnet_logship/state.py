"""What `decnet-logship status` shows: written by the daemon for people and monitoring, at most once a second.

`<data-directory>/logship/state.json`, written whole (temporary, fsync, rename, fsync of the folder), when something
changed and every `HEARTBEAT_SECS`, so that its age tells whether the daemon lives. Nothing is decided by it but one
warning: that the master has less of a file than it acknowledged before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from decnet_core.errors import NotFound, Unavailable
from decnet_core.pki.durable import PUBLIC_MODE, replace_file
from decnet_logship.generations import Register, Snapshot

STATE_SECS = 1.0
HEARTBEAT_SECS = 10.0

_MAX_BYTES = 1 << 20
_MAX_ACKED = 64

log = structlog.get_logger()


@dataclass(slots=True)
class LogState:
    """How the shipping of one log stands; times are ISO 8601 in UTC, empty when it never was; counts since the start.

    Attributes:
        path: the log.
        generation: the stream that is shipped now, or was last.
        connected: whether the receiver takes it now.
        connected_since, last_line_at, last_ack_at: when a line was last sent, and when one was acknowledged.
        acked_offset: how much of the generation the master has, in bytes of the stream.
        shipped_bytes: acknowledged, of all generations.
        cut_lines, skipped_lines: lines above the bound, and empty ones.
        gaps, lost_bytes: generations that were gone before the master had them, and how much of them at least.
        connections, failures: that came about, and that did not or ended.
        refused: the receiver's reason, while it refuses.
        last_error: why the last connection ended; empty again once there is one.
    """

    path: str
    generation: str = ""
    connected: bool = False
    connected_since: str = ""
    last_line_at: str = ""
    last_ack_at: str = ""
    acked_offset: int = 0
    shipped_bytes: int = 0
    cut_lines: int = 0
    skipped_lines: int = 0
    gaps: int = 0
    lost_bytes: int = 0
    connections: int = 0
    failures: int = 0
    refused: str = ""
    last_error: str = ""


@dataclass(slots=True)
class State:
    """How shipping stands.

    Attributes:
        master: address that is dialled.
        protocol: `decnet-log` or `rfc5425`.
        updated_at: ISO 8601, UTC.
        acked: generation -> offset that the master acknowledged, of the generations that moved last.
        logs: the event log first.
    """

    master: str = ""
    protocol: str = "decnet-log"
    updated_at: str = ""
    acked: dict[str, int] = field(default_factory=dict)
    logs: list[LogState] = field(default_factory=list)

    def note_acked(self, stream: str, offset: int) -> None:
        """Take note of what the master has."""
        if stream not in self.acked and len(self.acked) >= _MAX_ACKED:
            del self.acked[next(iter(self.acked))]
        self.acked[stream] = offset

    def encode(self) -> bytes:
        """Write it as the file has it."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


class StateWriter:
    """Keeps the state and the register of generations written."""

    def __init__(self, path: Path, state: State, register: Register) -> None:
        self._path = path
        self._register = register
        self._changed = asyncio.Event()
        self._fault: int | None = None  # errno that was reported
        self._sources: list[Callable[[], None]] = []
        self.state = state

    def ask_before_writing(self, source: Callable[[], None]) -> None:
        """Call this before each write: it brings its part up to date."""
        self._sources.append(source)

    def changed(self) -> None:
        """Say that something changed."""
        self._changed.set()

    async def run(self) -> None:
        """Write for ever."""
        while True:
            self._changed.clear()
            snapshot = self._gather()
            await asyncio.to_thread(self._write, snapshot, self.state.encode())
            await asyncio.sleep(STATE_SECS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECS - STATE_SECS):
                    await self._changed.wait()

    def close(self) -> None:
        """Write once more, when everything else has ended."""
        for one in self.state.logs:
            one.connected, one.connected_since = False, ""
        self._write(self._gather(), self.state.encode())

    def _gather(self) -> Snapshot:
        for source in self._sources:
            source()
        self.state.updated_at = timestamp()
        return self._register.snapshot()

    def _write(self, snapshot: Snapshot, state: bytes) -> None:
        try:
            self._register.write(snapshot)
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            replace_file(self._path, state, PUBLIC_MODE)
            self._fault = None
        except OSError as cause:
            if self._fault != cause.errno:
                log.warning("state.unwritable", path=str(self._path), reason=cause.strerror)
            self._fault = cause.errno


def timestamp() -> str:
    """Tell the time as the state has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


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
