"""Clear away after a run that was killed with SIGKILL, without waiting for the next one.

The janitor is a process that waits on a pipe whose other end only the run holds. When the run ends in order it says so
and the janitor leaves; when the pipe closes without a word the run was killed. The kernel has ended the run's daemons
by then (each asked for it); what stays is the run's folder and its network segment, and those the janitor removes.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.lab import lan

_ALL_IS_WELL = b"."
_SETTLE_SECS = 15.0  # daemons that were asked to end may still write for up to ten


@contextlib.contextmanager
def watching(folder: Path) -> Iterator[None]:
    """Have a folder, and the segments of dead runs, removed if this process is killed inside the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.lab.janitor", str(folder)], stdin=subprocess.PIPE, start_new_session=True
    ) as janitor:
        try:
            yield
        finally:
            janitor.communicate(_ALL_IS_WELL)


def main() -> None:
    """Wait for the run to end, and clear away if it was killed."""
    if sys.stdin.buffer.read(1) == _ALL_IS_WELL:
        return
    folder = Path(sys.argv[1])
    deadline = time.monotonic() + _SETTLE_SECS
    while time.monotonic() < deadline:
        lan.sweep()
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
