"""The daemons under fire, each a process of its own: writers, senders, listener, ingester and, if asked, PostgreSQL.

    writer  -> events.log \
                            decnet-logship -> link -> listener -> journal -> ingester -> database
    foreign -> app.log    /

A daemon that ends by itself is a crash: it is counted with the end of its log, and started again so that the run goes
on. Time-outs and pauses are set shorter than by default, or most of a run would be spent waiting for them; nothing
else differs from what is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench.enrolled import Enrolled
from bench.fire.foreign import KINDS, wish_of
from bench.fire.link import Link
from bench.fire.tally import OURS, THEIRS, ingested
from bench.fire.writer import ROTATE_FILE
from decnet_master.journal.segments import Position, read_marker
from tests.lab.postgres import PostgresCluster
from tests.lab.processes import Daemon

ROOT = Path(__file__).resolve().parent.parent.parent
JOURNAL_MIB = 192
"""Of the small disk under the journal: the two segments that a healthy ingester leaves there, and some backlog."""

MAX_LOG_BYTES = 4 << 20
"""The event log's files rotate by size as well."""

RESPAWN_SECS = 0.2
_STATUS_SECS = 20.0
_BALLAST = "ballast"
_CLONE_NEWNS = 0x00020000  # linux/sched.h


class Site:
    """All daemons of one run."""

    def __init__(
        self,
        enrolled: Enrolled,
        link: Link,
        port: int,
        *,
        lines: Mapping[str, int],
        secs: float,
        disk: Path | None,
        cluster: PostgresCluster | None,
    ) -> None:
        """Wire them; nothing is started yet.

        Args:
            enrolled: their directories and identities.
            link: what the senders dial.
            port: the listener's.
            lines: that each worker writes into each of its logs.
            secs: how long the writers take for them.
            disk: mount point of a small disk under the journal, if there is one.
            cluster: the database's server, if there is one.
        """
        self.enrolled = enrolled
        self.link = link
        self.lines = lines
        self.disk = disk
        self.cluster = cluster
        self.crashes: list[str] = []
        self.down: set[str] = set()
        self._secs = secs
        self._began = time.monotonic()
        self._respawned_at = 0.0
        master = enrolled.master_environment() | {
            "DECNET_LISTENER_ADDRESS": f"127.0.0.1:{port}",
            "DECNET_JOURNAL_MIN_FREE_MIB": "8",  # of a small disk
        }
        self.daemons = {part: self._daemon(part, ["-m", "decnet_master", part], master) for part in _PARTS}
        for worker in enrolled.shippers:
            self._add_worker(worker)

    @property
    def workers(self) -> list[str]:
        """Names of the workers."""
        return list(self.enrolled.shippers)

    def start(self) -> None:
        """Start all, the clock of the writers with them."""
        for name, daemon in self.daemons.items():
            if _kind(name) not in _WRITING:
                daemon.start()
        self.daemons["listener"].wait_for_line("listener.started", timeout_secs=60)
        self._began = time.monotonic()
        for worker in self.workers:
            self._add_writers(worker)
            for writing in _WRITING:
                self.daemons[f"{writing} {worker}"].start()
        for worker in self.workers:  # what was rotated before a log was followed is left alone
            register = self.enrolled.worker(worker) / "logship" / "files.json"
            known = functools.partial(_names, register, self._foreign_log(worker))
            self.daemons[f"sender {worker}"].wait_until(known, "a log that is followed")

    def kill(self, name: str) -> None:
        """Kill a daemon, or the database, with SIGKILL."""
        self.down.add(name)
        if name == "database":
            assert self.cluster is not None  # noqa: S101 -- nobody strikes it where there is none
            self.cluster.kill()
        else:
            self.daemons[name].kill()

    def start_again(self, name: str) -> None:
        """Start what was killed."""
        self.down.discard(name)
        if name != "database":
            self.daemons[name].start()

    def rotate(self, worker: str) -> None:
        """Have a worker's event log rotated as soon as its writer runs."""
        folder = self.enrolled.worker(worker) / "agent"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / ROTATE_FILE).touch()

    def rotate_foreign(self, worker: str, kind: str) -> None:
        """Have a worker's other log rotated, by rename or by copytruncate."""
        wish_of(self._foreign_log(worker), kind).touch()

    def pause(self, name: str) -> Callable[[], None]:
        """Stop a process; returns what lets it go on, harmless when it was killed meanwhile."""
        pid = self.daemons[name].pid
        os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            if name not in self.down and self.daemons[name].pid == pid:
                os.kill(pid, signal.SIGCONT)

        return go_on

    def fill_disk(self) -> None:
        """Take all room under the journal."""
        assert self.disk is not None  # noqa: S101 -- nobody strikes it where there is none
        with (self.disk / _BALLAST).open("wb") as file:
            size, piece = 0, 64 << 20
            while piece >= 1 << 12:
                try:
                    os.posix_fallocate(file.fileno(), size, piece)
                    size += piece
                except OSError:
                    piece //= 2

    def empty_disk(self) -> None:
        """Give the room back."""
        assert self.disk is not None  # noqa: S101 -- it was filled
        (self.disk / _BALLAST).unlink(missing_ok=True)

    def watch(self) -> None:
        """Take note of what ended by itself, and start it again."""
        for name, daemon in self.daemons.items():
            if name in self.down or daemon.returncode is None or self.is_written(name):
                continue
            self.crashes.append(f"{name} ended with {daemon.returncode}: {daemon.log_text()[-1500:]}")
            daemon.start()
        if self.cluster is not None and "database" not in self.down and not self.cluster.is_up:
            now = time.monotonic()  # what the killed one left is not all gone yet
            if now - self._respawned_at > RESPAWN_SECS:
                self._respawned_at = now
                self.cluster.start_again()

    def is_written(self, name: str) -> bool:
        """Tell whether this is a writer that has written all."""
        return _kind(name) in _WRITING and name not in self.down and self.daemons[name].returncode == 0

    def progress(self) -> tuple[int, Position, Position]:
        """Tell what is left.

        Returns:
            bytes that the senders do not know acknowledged, -1 while a writer still writes; end of the journal; up to
            where it is in the database.
        """
        if not all(self.is_written(f"{writing} {worker}") for writing in _WRITING for worker in self.workers):
            left = -1
        else:
            left = sum(self._backlog_bytes(worker) for worker in self.workers)
        stored = asyncio.run(ingested(self.enrolled.database_url))
        return left, read_marker(self.enrolled.master / "journal"), stored

    def _backlog_bytes(self, worker: str) -> int:
        env = os.environ | self._sender_environment(worker)
        argv = [sys.executable, "-m", "decnet_logship", "status", "--json"]
        told = subprocess.run(argv, env=env, capture_output=True, timeout=_STATUS_SECS, check=False).stdout
        return int(json.loads(told)["backlog_bytes"]) if told else -1

    def stop(self) -> None:
        """Stop all in order; one that does not end well is a crash."""
        for name in sorted(self.daemons, key=lambda name: _ORDER.index(_kind(name))):
            daemon = self.daemons[name]
            if (code := daemon.stop()) not in (0, None):
                self.crashes.append(f"{name} stopped with {code}: {daemon.log_text()[-1500:]}")

    def remarks(self) -> dict[str, int]:
        """Count what the daemons logged as warnings and errors; an error with a traceback is a crash."""
        found: Counter[str] = Counter()
        for name, daemon in self.daemons.items():
            if not daemon.log_path.exists():
                continue
            with daemon.log_path.open("rb") as file:
                for line in file:
                    entry = _entry(line)
                    if entry.get("level") in ("warning", "error"):
                        found[str(entry.get("event"))] += 1
                    if line.startswith(b"Traceback") or (entry.get("level") == "error" and "exception" in entry):
                        self.crashes.append(f"{name}: {line[-1500:].decode(errors='replace')}")
        return dict(sorted(found.items()))

    def _add_worker(self, worker: str) -> None:
        env = self._sender_environment(worker)
        self.daemons[f"sender {worker}"] = self._daemon(f"sender {worker}", ["-m", "decnet_logship", "serve"], env)
        self._add_writers(worker)

    def _sender_environment(self, worker: str) -> dict[str, str]:
        return self.enrolled.worker_environment(worker) | {
            "DECNET_MASTER": f"127.0.0.1:{self.link.port}",
            "DECNET_FILES": str(self._foreign_log(worker)),
            "DECNET_RECONNECT_MAX_SECS": "0.5",
            "DECNET_ACK_TIMEOUT_SECS": "3",
            "DECNET_CONNECT_TIMEOUT_SECS": "3",
        }

    def _foreign_log(self, worker: str) -> Path:
        return self.enrolled.worker(worker) / "others" / THEIRS

    def _add_writers(self, worker: str) -> None:
        foreign, ours = self._foreign_log(worker), self.enrolled.log_directory(worker) / OURS
        wish_of(foreign, KINDS[0]).parent.mkdir(parents=True, exist_ok=True)
        pace = {
            log: [str(value) for value in (count, count / self._secs, self._began)] for log, count in self.lines.items()
        }
        argv = ["-m", "bench.fire.writer", str(ours), str(self.enrolled.worker(worker) / "agent"), worker, *pace[OURS]]
        self.daemons[f"writer {worker}"] = self._daemon(f"writer {worker}", [*argv, str(MAX_LOG_BYTES)], {})
        argv = ["-m", "bench.fire.foreign", str(foreign), worker, *pace[THEIRS]]
        self.daemons[f"foreign {worker}"] = self._daemon(f"foreign {worker}", argv, {})

    def _daemon(self, name: str, argv: list[str], env: dict[str, str]) -> Daemon:
        log_path = self.enrolled.folder / "out" / f"{name.replace(' ', '-')}.log"
        return Daemon([sys.executable, *argv], log_path=log_path, env=env, cwd=ROOT)


_PARTS = ("listener", "ingester")
_WRITING = ("writer", "foreign")
_ORDER = ("writer", "foreign", "sender", "listener", "ingester")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Put a small file system of our own under a folder; None where that takes rights which we lack.

    It stands in a mount namespace of this process and its children alone, so it goes when they do, however they end.
    Call it before any thread is started.
    """
    folder.mkdir(mode=0o750, parents=True)
    options = f"size={JOURNAL_MIB}m,mode=0750"
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        yield None
        return
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "decnet-bench", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _entry(line: bytes) -> dict[str, object]:
    """Read a line of a daemon's log; nothing for one that is none."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _names(register: Path, log: Path) -> bool:
    return register.exists() and str(log) in register.read_text()


def _kind(name: str) -> str:
    """Tell what a daemon is, without the worker's name."""
    return name.partition(" ")[0]
