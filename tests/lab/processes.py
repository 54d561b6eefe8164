"""Our daemons as child processes: started, waited for, killed the hard way, and never left behind.

A `Daemon` leads a process group of its own, writes both outputs to one file, and gets SIGKILL from the kernel when
the thread that started it dies: a killed test run leaves nothing running. Tests wait for a level (a port, a line, an
answer), always with a bound, and a daemon that dies while it is waited for fails the wait at once with the end of its
log.

It does not restart anything: that is what the daemons' own supervision is tested for.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from decnet_core.errors import Unavailable
from tests.lab import slots
from tests.lab.slots import MissingPart

LEVEL_SECS = 60.0  # for what takes a second or two: a machine under load takes its time
_POLL_SECS = 0.02  # a level is looked for fifty times a second: below what a test's time can show
_ATTEMPT_SECS = 5.0  # one connection attempt
_PORTS = range(20_000, 32_000)  # Linux gives from 32,768 on (ip_local_port_range)
_BLOCK_PORTS = 300


class Daemon:
    """One daemon under test.

    Args:
        argv: its command line.
        log_path: the file that takes its standard output and error, appended to over restarts.
        env: variables added to ours.
        cwd: its working folder.
    """

    def __init__(
        self, argv: Sequence[str], *, log_path: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.argv = list(argv)
        self.log_path = log_path
        self._env = {**os.environ, **(env or {})}
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of the running daemon; its group has the same number."""
        return self._running().pid

    @property
    def returncode(self) -> int | None:
        """The exit code of the last run, negative for a signal; None while it runs."""
        return self._running().poll()

    def start(self) -> None:
        """Start it, again if it ended; a daemon that still runs is a mistake of the test."""
        assert self._process is None or self._process.poll() is not None, "it still runs"
        self._finish()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        setpriv = slots.require_program("setpriv", "util-linux")
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [setpriv, "--pdeathsig", "KILL", "--", *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )

    def log_text(self) -> str:
        """Return what the present run has written so far."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def wait_for_line(self, pattern: str, *, timeout_secs: float = LEVEL_SECS) -> re.Match[str]:
        """Wait until the log of the present run holds a match of the regular expression, and return it."""
        found: list[re.Match[str]] = []

        def seen() -> bool:
            found.extend(match for match in [re.search(pattern, self.log_text(), re.MULTILINE)] if match)
            return bool(found)

        self.wait_until(seen, f"a log line like {pattern!r}", timeout_secs=timeout_secs)
        return found[0]

    def wait_for_port(self, port: int, *, host: str = "127.0.0.1", timeout_secs: float = LEVEL_SECS) -> None:
        """Wait until something accepts TCP connections there."""

        def accepts() -> bool:
            try:
                socket.create_connection((host, port), timeout=_ATTEMPT_SECS).close()
            except OSError:
                return False
            return True

        self.wait_until(accepts, f"a listener on {host}:{port}", timeout_secs=timeout_secs)

    def wait_for_http(
        self, url: str, *, status: int = 200, context: ssl.SSLContext | None = None, timeout_secs: float = LEVEL_SECS
    ) -> bytes:
        """Wait until a GET of the URL answers with the status, and return the body of that answer."""
        bodies: list[bytes] = []

        def answers() -> bool:
            try:
                got, body = _get(url, context)
            except (OSError, http.client.HTTPException):
                return False
            if got == status:
                bodies.append(body)
            return bool(bodies)

        self.wait_until(answers, f"{status} from {url}", timeout_secs=timeout_secs)
        return bodies[0]

    def wait_until(self, reached: Callable[[], bool], level: str, *, timeout_secs: float = LEVEL_SECS) -> None:
        """Wait until a level is reached.

        Raises:
            Unavailable: it was not reached in time, or the daemon ended before; the message holds the end of its log.
        """
        deadline = time.monotonic() + timeout_secs
        while not reached():
            ended = self.returncode
            if ended is not None or time.monotonic() > deadline:
                why = f"exit code {ended}" if ended is not None else f"waited {timeout_secs:g} s"
                raise Unavailable(f"{self.argv[0]}: no {level} ({why}); its log ends:\n{self.log_text()[-2000:]}")
            time.sleep(_POLL_SECS)

    def wait(self, *, timeout_secs: float = 20.0) -> int:
        """Wait for its end by itself and return the exit code."""
        return self._running().wait(timeout_secs)

    def kill(self) -> None:
        """Kill it with SIGKILL, it alone, as a crash would, and reap it; its children are on their own."""
        process = self._running()
        process.kill()
        process.wait()

    def ask_to_end(self) -> None:
        """Send it SIGTERM if it runs, and wait for nothing."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self, *, timeout_secs: float = 20.0) -> int | None:
        """Ask it to end, insist after the timeout, reap it and its group, and return the exit code."""
        if self._process is None:
            return None
        try:
            self.ask_to_end()
            self._process.wait(timeout_secs)
        except subprocess.TimeoutExpired:
            pass  # the group is killed below
        finally:
            self._finish()
        return self._process.returncode

    def _finish(self) -> None:
        """Kill what still runs in its group, and reap the leader."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the number stays the group's while any member lives
        self._process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was never started"
        return self._process


def stop_all(daemons: Iterable[Daemon]) -> None:
    """Stop daemons side by side: each takes its time to end, and none waits for another."""
    asked = list(daemons)
    for daemon in asked:
        daemon.ask_to_end()
    for daemon in asked:
        daemon.stop()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free, for a daemon that cannot be told 0.

    Nobody takes it before the daemon does, nor while that is down: it is of a block that this process owns (see
    `slots`), below those that the kernel gives to whoever names none.

    Raises:
        MissingPart: all are taken.
    """
    block = _own_ports()
    for port in islice(block, _BLOCK_PORTS):
        with suppress(OSError):  # a daemon of ours still has it, or a program of the machine's
            socket.create_server(("127.0.0.1", port)).close()
            return port
    raise MissingPart("no port is left of this run's own", "End daemons that are still running")


@cache
def _own_ports() -> Iterator[int]:
    """Claim a block of ports until this process ends, and return them in turn for ever."""
    locks = Path(tempfile.gettempdir()) / f"dlab-port-locks-{os.geteuid()}"  # not in the run folder: this needs no root
    slot = next(slots.free(locks, range(len(_PORTS) // _BLOCK_PORTS)), None)
    if slot is None:
        raise MissingPart(f"all ports of {_PORTS} belong to runs of the lab", "End the other runs")
    first = _PORTS.start + slot.number * _BLOCK_PORTS
    return cycle(range(first, first + _BLOCK_PORTS))


def _get(url: str, context: ssl.SSLContext | None) -> tuple[int, bytes]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=_ATTEMPT_SECS, context=context or ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_ATTEMPT_SECS)
    try:
        connection.request("GET", f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
