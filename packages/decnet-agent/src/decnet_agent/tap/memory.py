"""What the tap knows and has not delivered, where a SIGKILL does not reach it.

`<data-directory>/tap/<source>.sqlite3` (0600, in a folder 0700) holds, written in one transaction each time:

    facts    the tables of `Observer` and `Captures` (`remembered`): processes and their sessions, users, orders, …
    outbox   the events that the collector has not acknowledged, as they go over the wire, by their cursors
    meta     boot, form of this file, the last cursor, what was lost and told or not, and the ring's generation and the
             position in it up to which all of that is made of the kernel's records

So what was made of a record and that it was are one fact. The ring's room is freed after the commit, and an event is
sent after the commit: a tap that dies before left the record in the ring and sent nothing; one that dies after
left everything here. The next tap goes on with the same source and the same cursors.

SQLite in WAL mode without any sync: a commit is a write into the page cache, which outlives every process but not the
machine; after a power cut the file may be unreadable, and is put aside. A file of an earlier boot (or of another form)
is not continued: `leftovers` delivers its outbox under its own source. `lock` admits one tap at a time; its time is
when the last tap was seen alive.

A disk that is full (or fails) ends the remembering, not the tap: the file is removed, since it would contradict what is
delivered from then on, and written anew, whole, as soon as that succeeds. A tap that is killed in between is succeeded
by one that begins afresh.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from decnet_agent.evidence.sender import EvidenceSender
from decnet_agent.tap.remembered import Remembered
from decnet_core.errors import RemoteProtocolError, Unavailable

FORM = "3"
"""Of the file and of what stands in `facts`; another form is delivered and not continued."""
RETRY_SECS = 5.0
"""Between two attempts to write a file anew."""
CACHE_KIB = 1024

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SCHEMA = """
CREATE TABLE facts (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key));
CREATE TABLE outbox (cursor INTEGER PRIMARY KEY, line BLOB NOT NULL);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

log = structlog.get_logger()

AnyTable = Remembered[Any, Any]
_Changes = tuple[str, list[tuple[str, str | None]]]


@dataclass(slots=True)
class Progress:
    """How far the kernel's records are dealt with: a position in one ring, and how many lost ones were told.

    `last` and `dropped` are those of the sender; `screens` is the ring of terminals.
    """

    ring: str = ""
    position: int = 0
    lost: int = 0
    last: int = 0
    dropped: int = 0
    screens: str = ""
    screens_position: int = 0


class Memory:
    """The file of this boot, and the only tap's right to it.

    Attributes:
        source: under which this tap's events go.
        found: whether an earlier tap's memory is being continued.
        gap_secs: for how long no tap was alive.
        progress: ring and position to be set before each `commit`.
        outbox: what is to be delivered, when an earlier memory is continued.

    Raises:
        Unavailable: another tap runs, or the folder cannot be used.
    """

    def __init__(self, folder: Path, tables: Sequence[AnyTable]) -> None:
        self._folder, self._tables = folder, tables
        self._boot = _BOOT_ID.read_text(encoding="ascii").strip()
        self._lock = _lock(folder)
        self.gap_secs = max(0.0, time.time() - os.fstat(self._lock).st_mtime)
        self.progress = Progress()
        self.found = False
        self.source = f"tap.{secrets.token_hex(8)}"
        self.outbox: list[bytes] = []
        self._acknowledged = 0
        self._written = replace(self.progress)
        self._database: sqlite3.Connection | None = None
        self._retry_at = 0.0
        self._continue()
        if self._database is None:
            self._begin()
        self.alive()

    @property
    def older(self) -> list[Path]:
        """List the files that are not continued."""
        return sorted(path for path in self._folder.glob("*.sqlite3") if path.stem != self.source)

    def alive(self) -> None:
        """Note that a tap lives; a disk that fails makes the next tap think that we ended earlier, and no more."""
        with suppress(OSError):
            os.utime(self._lock)

    def commit(self, sender: EvidenceSender) -> None:
        """Write down all that changed, and let go of the events that are safe now."""
        self.progress.last, self.progress.dropped = sender.last, sender.dropped
        if self._database is None:
            self._begin_again(sender)
        else:
            self._attempt([(table.name, table.changes()) for table in self._tables], sender.unreleased(), sender)
        sender.release()

    def close(self) -> None:
        """Close; an outbox that is empty and that nobody will continue is no use, but harmless."""
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _continue(self) -> None:
        for path in sorted(self._folder.glob("*.sqlite3")):
            try:
                database = open_memory(path)
            except RemoteProtocolError:
                continue  # `leftovers` puts it aside
            meta = read_meta(database)
            if self._database is None and (meta.get("boot"), meta.get("form")) == (self._boot, FORM):
                try:
                    self._restore(database, meta)
                except RemoteProtocolError as cause:
                    log.warning("tap.memory_unreadable", file=path.name, reason=cause.message)
                    self._clear()
                else:
                    self._database, self.source, self.found = database, path.stem, True
                    continue
            database.close()

    def _restore(self, database: sqlite3.Connection, meta: dict[str, str]) -> None:
        for table in self._tables:
            rows = database.execute("SELECT key, value FROM facts WHERE kind = ? ORDER BY rowid", (table.name,))
            table.restore(rows.fetchall())
        self.outbox = read_outbox(database)
        try:
            numbers = [int(meta[name]) for name in ("position", "lost", "last", "dropped", "screens_position")]
            position, lost, last, dropped, screens_position = numbers
            self.progress = Progress(meta["ring"], position, lost, last, dropped, meta["screens"], screens_position)
        except (KeyError, ValueError) as cause:
            raise RemoteProtocolError("The tap's memory lacks its position") from cause
        self._written = replace(self.progress)

    def _clear(self) -> None:
        self.progress, self.outbox = Progress(), []
        for table in self._tables:
            table.clear()

    def _begin(self) -> None:
        path = self._folder / f"{self.source}.sqlite3"
        try:
            self._database = connect(path)
            path.chmod(0o600)
            self._database.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as cause:
            self._fail(str(cause))

    def _begin_again(self, sender: EvidenceSender) -> None:
        if time.monotonic() < self._retry_at:
            return
        self._begin()
        if self._database is not None:
            for table in self._tables:
                table.all_changed()
            self._acknowledged, self._written = 0, Progress()
            self._attempt([(table.name, table.changes()) for table in self._tables], sender.undelivered(), sender)
        if self._database is not None:
            log.info("tap.memory_restored")

    def _attempt(
        self, changes: Sequence[_Changes], events: Sequence[tuple[int, bytes]], sender: EvidenceSender
    ) -> None:
        moved = self.progress != self._written or sender.acknowledged != self._acknowledged
        if self._database is None or not (moved or events or any(rows for _, rows in changes)):
            return
        try:
            self._write(self._database, changes, events, sender.acknowledged)
        except sqlite3.Error as cause:
            self._fail(str(cause))
        else:
            self._acknowledged, self._written = sender.acknowledged, replace(self.progress)

    def _write(
        self,
        database: sqlite3.Connection,
        changes: Sequence[_Changes],
        events: Sequence[tuple[int, bytes]],
        acknowledged: int,
    ) -> None:
        with database:
            database.execute("BEGIN IMMEDIATE")
            for kind, rows in changes:
                kept = [(kind, key, value) for key, value in rows if value is not None]
                gone = [(kind, key) for key, value in rows if value is None]
                database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", kept)
                database.executemany("DELETE FROM facts WHERE kind = ? AND key = ?", gone)
            database.executemany("INSERT INTO outbox VALUES (?, ?)", events)
            if acknowledged != self._acknowledged:
                database.execute("DELETE FROM outbox WHERE cursor <= ?", (acknowledged,))
            database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", self._meta())

    def _meta(self) -> list[tuple[str, str]]:
        progress = {name: str(value) for name, value in asdict(self.progress).items()}
        return [("boot", self._boot), ("form", FORM), *progress.items()]

    def _fail(self, reason: str) -> None:
        log.warning("tap.memory_failed", reason=reason)
        if self._database is not None:
            self._database.close()
            self._database = None
        for path in self._folder.glob(f"{self.source}.sqlite3*"):
            with suppress(OSError):
                path.unlink()
        self._retry_at = time.monotonic() + RETRY_SECS


def open_memory(path: Path) -> sqlite3.Connection:
    """Open a memory that an earlier tap wrote.

    Raises:
        RemoteProtocolError: it is none, or damaged.
    """
    try:
        database = connect(path)
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as cause:
        raise RemoteProtocolError(f"{path.name} cannot be read") from cause
    if verdict != "ok":
        database.close()
        raise RemoteProtocolError(f"{path.name} is damaged")
    return database


def read_meta(database: sqlite3.Connection) -> dict[str, str]:
    """Read what a memory says about itself; empty when it says nothing."""
    try:
        return dict(database.execute("SELECT name, value FROM meta"))
    except sqlite3.Error:
        return {}


def read_outbox(database: sqlite3.Connection) -> list[bytes]:
    """Read the events that were not acknowledged.

    Raises:
        RemoteProtocolError: there is no outbox.
    """
    try:
        return [bytes(line) for (line,) in database.execute("SELECT line FROM outbox ORDER BY cursor")]
    except (sqlite3.Error, TypeError) as cause:
        raise RemoteProtocolError("A memory of the tap has no outbox") from cause


def connect(path: Path) -> sqlite3.Connection:
    """Open a file of SQLite the way that the tap uses it."""
    database = sqlite3.connect(path, isolation_level=None, timeout=0)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")  # no index in shared memory beside it: there is one tap
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")
    database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    return database


def _lock(folder: Path) -> int:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(directory).st_uid != os.geteuid():
                raise Unavailable(f"{folder} belongs to somebody else", "Remove it; the tap makes it anew.")
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open("lock", flags, 0o600, dir_fd=directory)
        finally:
            os.close(directory)
    except OSError as cause:
        raise Unavailable(f"Cannot use {folder}: {cause.strerror}", "Make data-directory writable for root.") from cause
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        os.close(lock)
        raise Unavailable("Another tap runs", "It may just be ending: this is tried again.") from cause
    return lock
