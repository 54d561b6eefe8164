"""Show how far a change is, on standard error and only on a terminal: what is piped or logged stays the result."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decnet_master.cli.connection import Progress
    from decnet_master.swarmctl.fleet_messages import FleetProgress


@contextmanager
def shown() -> Iterator[Progress | None]:
    """Give what to tell progress to while the block runs; None where nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 -- heavy, and not needed in a pipe

    with Console(stderr=True).status("Asking the controller") as status:
        yield lambda progress: status.update(words(progress))


def words(progress: FleetProgress) -> str:
    """Tell how far it is."""
    failed = f", {progress.failed} of them failed" if progress.failed else ""
    return f"{progress.done} of {progress.workers} workers done{failed}"
