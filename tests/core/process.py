"""Run a small program with real signals, and watch what it prints."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

WAIT_SECS = 20  # a bound for what takes milliseconds


class Program:
    """Python code as a process of its own, its output a pipe that is read by lines; killed at the end."""

    def __init__(self, code: str, *arguments: object, env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", textwrap.dedent(code), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(WAIT_SECS)
        self.process.stdout.close()

    def line(self) -> str:
        """Return the next line; an empty text at the end."""
        ends_at = time.monotonic() + WAIT_SECS
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, ends_at - time.monotonic()))
            assert ready, f"no line came, only {self._unread!r}"
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                break
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def line_with(self, words: str) -> str:
        """Skip lines until one holds the words."""
        while words not in (line := self.line()):
            assert line, f"it ended without {words!r}"
        return line

    def rest(self) -> str:
        """Return all that is still to come."""
        lines = []
        while line := self.line():
            lines.append(line)
        return "\n".join(lines)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Return the exit code."""
        return self.process.wait(WAIT_SECS)


def wait_until(level: Callable[[], bool], what: str) -> None:
    """Wait for a level, bounded."""
    ends_at = time.monotonic() + WAIT_SECS
    while not level():
        assert time.monotonic() < ends_at, what
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
