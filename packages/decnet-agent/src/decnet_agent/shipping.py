"""How shipping stands, as the log shipper beside the agent says itself: `decnet-logship status --json`.

The programs of a worker import nothing of one another, and what the shipper keeps on the disk is its own: its answer
is asked for as anybody would. It takes a start of Python, which is why `decnet-agent status` asks and the agent, that
tells the master how it is every few seconds, does not: the master sees what arrives.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from decnet_core.errors import ExitCode

ASK_SECS = 20.0
"""It counts what waits on the disk, which may be gigabytes after a long outage."""

_MAX_SAID_CHARS = 1000
"""Of what a program says on its standard error."""


@dataclass(frozen=True, slots=True)
class ShippingState:
    """What is known of the log shipper.

    Attributes:
        state: `connected`; `waiting` where a log is not, `refused` where the receiver will not have this worker's,
            `down` where the shipper does not run; `absent` where it never ran or is not installed, `unknown` where it
            does not say.
        backlog_bytes: what the receiver has not acknowledged; None where nobody knows.
        reason: why it is not connected, for a person; empty where there is nothing to say.
    """

    state: str
    backlog_bytes: int | None = None
    reason: str = ""

    def document(self) -> dict[str, Any]:
        """Return it for a JSON document."""
        return asdict(self)

    def words(self) -> str:
        """Say it in a line."""
        waits = "" if self.backlog_bytes is None else f", {self.backlog_bytes:,} bytes to be shipped"
        return f"{self.state}{waits}" + (f": {self.reason}" if self.reason else "")


_STATES = {
    ExitCode.OK: "connected",
    ExitCode.RETRY_LATER: "waiting",
    ExitCode.TRUST: "refused",
    ExitCode.UNAVAILABLE: "down",
    ExitCode.NOT_FOUND: "absent",
}


def ask_shipper(program: Path | None = None) -> ShippingState:
    """Ask the log shipper that is installed beside this program.

    Args:
        program: its console script; None is the one in this program's environment.
    """
    program = program or Path(sys.executable).parent / "decnet-logship"
    if not program.exists():
        return ShippingState("absent", reason=f"{program} is not installed")
    try:
        asked = subprocess.run(
            [str(program), "status", "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ASK_SECS,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return ShippingState("unknown", reason=f"{program} cannot be asked: {type(error).__name__}")
    try:
        said = json.loads(asked.stdout)
        return ShippingState(
            _STATES.get(ExitCode(asked.returncode), "unknown"), int(said["backlog_bytes"]), str(said["last_error"])
        )
    except (ValueError, KeyError, TypeError):
        words = " ".join(asked.stderr[:_MAX_SAID_CHARS].split())
        state = "absent" if asked.returncode == ExitCode.NOT_FOUND else "unknown"
        return ShippingState(state, reason=words or f"it ended with {asked.returncode} and no word")
