"""The worker's event log: one writer, whole lines, nothing twice, nothing forgotten.

    <log-directory>/events.log                 RFC 5424 lines ended by LF; the first is a `log.opened` event that
                                               holds the file's generation (32 hex)
    <log-directory>/events.log.<generation>    rotated by rename, never written again
    <log-directory>/.events.lock               held with flock while a writer lives
    <state-directory>/event-log.json           checkpoint: boot id, generation, offset, each source's cursor

Invariants
- The log is the truth about what was collected. An event whose cursor is not beyond its source's is not written
  again, so a sensor may offer one twice. After a crash the cursors are the checkpoint's and those of the lines behind
  its offset; a checkpoint is written only after the lines before it are on the disk, and without one all is read.
- A line is either whole or cut away: a torn last line is cut at start, and at once when the disk is full. Whole lines
  are never cut, since the shipper may have sent them.
- A file continues only within one boot. After a power cut its end may be gone while the shipper had sent it, and
  what is then written there would be taken for what the master has: so another boot begins another file.
- A full disk is RetryLater, with what was written counted as written. The caller keeps the rest and tries again.

`EventLog` blocks; `EventAppender` runs it in a thread and writes what several sensors offer at once with one write and
one fdatasync. Rotated files are the shipper's to remove, once the master has them.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import structlog

from decnet_core.errors import ConfigError, Conflict, LocalProtocolError, RemoteProtocolError, RetryLater, Unavailable
from decnet_core.events import Event, EventType, Trust, cursor_key, to_syslog
from decnet_core.pki.durable import SECRET_MODE, replace_file, sync_folder
from decnet_core.syslog.rfc5424 import decode, encode

LOG_MODE = 0o640
MAX_SOURCES = 10_000
"""Cursors kept; the least recently written is forgotten first. A worker runs at most 1,000 deckies."""

CHECKPOINT_BYTES = 1 << 20
"""A checkpoint is due after so much: a start reads no more than that again, about 3,000 lines."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_GENERATION = re.compile(r"[0-9a-f]{32}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SCAN_BYTES = 1 << 20

log = structlog.get_logger()


class EventLog:
    """The open log. Make one with `open`; it is for one thread at a time.

    Attributes:
        generation: of the file that is written now.
        written: events appended since it was opened.
    """

    def __init__(
        self, path: Path, state_directory: Path, host: str, max_bytes: int, now: Callable[[], datetime]
    ) -> None:
        self._path = path
        self._checkpoint_path = state_directory / "event-log.json"
        self._host = host
        self._max_bytes = max_bytes
        self._now = now
        self._cursors: dict[str, str] = {}
        self._descriptor = -1
        self._lock = -1
        self._size = 0
        self._checkpoint_at = 0
        self.generation = ""
        self.written = 0

    @classmethod
    def open(
        cls, path: Path, state_directory: Path, *, host: str, max_bytes: int, now: Callable[[], datetime]
    ) -> EventLog:
        """Open the log and recover what is known.

        Args:
            path: `<log-directory>/events.log`.
            host: this worker's name.
            max_bytes: a file is rotated before a write once it is as long.
            now: the clock, aware UTC.

        Raises:
            Conflict: another process writes it.
            ConfigError: a directory cannot be written.
            RetryLater: the disk is full.
        """
        opened = cls(path, state_directory, host, max_bytes, now)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            opened._take_lock()
            opened._recover()
        except OSError as cause:
            opened.close()
            if cause.errno in _FULL:
                raise _full(path) from cause
            raise ConfigError(
                f"The event log {path} cannot be written: {cause.strerror}",
                "Give log-directory and data-directory to the user who runs the agent.",
            ) from cause
        except BaseException:
            opened.close()
            raise
        return opened

    def close(self) -> None:
        """Close the files and let another writer in; twice is harmless."""
        for descriptor in (self._descriptor, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._lock = -1

    def cursor(self, source: str) -> str | None:
        """Return the cursor of the last event of a source that the log holds."""
        return self._cursors.get(source)

    def append(self, events: Sequence[Event]) -> None:
        """Write the events that the log does not hold yet, in order, with one write. `sync` makes them durable.

        Raises:
            RetryLater: the disk is full; call again with the same events when it is not.
            Unavailable: the disk fails.
        """
        try:
            if self._size >= self._max_bytes or self._descriptor < 0:
                self._rotate()
            self._write(self._new_lines(events))
        except OSError as cause:
            raise self._failure(cause) from cause

    def sync(self) -> None:
        """Make durable what was appended, and write a checkpoint when one is due.

        Raises:
            RetryLater: the disk is full.
            Unavailable: the disk fails; what was appended may not be there after a power cut.
        """
        try:
            os.fdatasync(self._descriptor)
            if self._size - self._checkpoint_at >= CHECKPOINT_BYTES:
                self._write_checkpoint()
        except OSError as cause:
            raise self._failure(cause) from cause

    def checkpoint_if_moved(self) -> None:
        """Note how far the log is known, so that the next start reads little.

        Raises:
            RetryLater, Unavailable: as `sync`.
        """
        if self._size == self._checkpoint_at:
            return
        try:
            os.fdatasync(self._descriptor)
            self._write_checkpoint()
        except OSError as cause:
            raise self._failure(cause) from cause

    def forget(self, source: str) -> None:
        """Drop the cursor of a source that will never speak again."""
        self._cursors.pop(source, None)

    def _take_lock(self) -> None:
        lock = os.open(self._path.with_name(".events.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, LOG_MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Conflict(
                f"Another agent writes the event log {self._path}", "Stop it, or give this one another log-directory."
            ) from None
        self._lock = lock

    def _recover(self) -> None:
        checkpoint = self._read_checkpoint()
        self._cut_torn_line()
        current = _generation_of(self._path)
        # From the checkpoint's place on in its file, and every file that is younger than it; without one, all files.
        rotated = sorted(self._path.parent.glob(f"{self._path.name}.*"), key=lambda path: path.stat().st_mtime_ns)
        files = [(path.name.removeprefix(f"{self._path.name}."), path) for path in rotated]
        files = [(generation, path) for generation, path in files if _GENERATION.fullmatch(generation)]
        if current is not None:
            files.append((current, self._path))
        start, generations = 0, [generation for generation, _ in files]
        if checkpoint is not None and checkpoint[0] not in generations:
            self._cursors = checkpoint[2]  # the master has that file whole, and the shipper removed it
        elif checkpoint is not None:
            index = generations.index(checkpoint[0])
            if files[index][1].stat().st_size >= checkpoint[1]:
                files, start = files[index:], checkpoint[1]
                self._cursors = checkpoint[2]
        for _, path in files:
            self._scan(path, start)
            start = 0
        if current is None or checkpoint is None or checkpoint[3] != _boot_id():
            if current is not None:
                self._path.rename(self._path.with_name(f"{self._path.name}.{current}"))
            self._begin_file()
        else:
            self.generation = current
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._size = os.fstat(self._descriptor).st_size
        os.fdatasync(self._descriptor)
        self._write_checkpoint()

    def _cut_torn_line(self) -> None:
        try:
            with self._path.open("r+b") as file:
                size = end = file.seek(0, os.SEEK_END)
                while end:
                    start = max(0, end - _SCAN_BYTES)
                    file.seek(start)
                    newline = file.read(end - start).rfind(b"\n")
                    if newline >= 0:
                        end = start + newline + 1
                        break
                    end = start
                if end < size:
                    file.truncate(end)
                    os.fsync(file.fileno())
                    log.warning("event_log.torn_line_cut", path=str(self._path), cut_bytes=size - end)
        except FileNotFoundError:
            return
        if end == 0:
            self._path.unlink()

    def _scan(self, path: Path, start: int) -> None:
        for line in _lines(path, start):
            try:
                params = decode(line).params
                source, cursor = params["source"], params["cursor"]
                self._note(source, cursor)
            except (RemoteProtocolError, KeyError):
                continue  # not a line of ours: it has no cursor to recover

    def _note(self, source: str, cursor: str) -> bool:
        """Advance a source's cursor; False when it is there already."""
        known = self._cursors.get(source)
        if known is not None and cursor_key(cursor) <= cursor_key(known):
            return False
        self._cursors.pop(source, None)  # to the end: the front is the longest silent
        self._cursors[source] = cursor
        if len(self._cursors) > MAX_SOURCES:
            del self._cursors[next(iter(self._cursors))]
        return True

    def _new_lines(self, events: Sequence[Event]) -> list[tuple[bytes, str, str]]:
        lines: list[tuple[bytes, str, str]] = []
        batch: dict[str, str] = {}
        for event in events:
            known = batch.get(event.source) or self._cursors.get(event.source)
            try:
                if known is not None and cursor_key(event.cursor) <= cursor_key(known):
                    continue
                cursor_key(event.cursor)
                line = encode(to_syslog(event)) + b"\n"
            except (LocalProtocolError, RemoteProtocolError) as error:
                # A bug of ours must not stop the evidence behind it.
                log.warning("event.refused", source=event.source, event_type=event.event_type, reason=error.message)
                continue
            batch[event.source] = event.cursor
            lines.append((line, event.source, event.cursor))
        return lines

    def _write(self, lines: Sequence[tuple[bytes, str, str]]) -> None:
        data = b"".join(line for line, _, _ in lines)
        if not data:
            return
        failure: OSError | None = None
        done = 0
        try:
            while done < len(data):
                done += os.write(self._descriptor, data[done:] if done else data)
        except OSError as error:
            failure = error
        whole = 0
        for line, source, cursor in lines:
            if whole + len(line) > done:
                break
            whole += len(line)
            self._note(source, cursor)
            self.written += 1
        if whole < done:
            os.ftruncate(self._descriptor, self._size + whole)
        self._size += whole
        if failure is not None:
            raise failure

    def _rotate(self) -> None:
        """Begin another file. A crash in between leaves the old name free, or a file that the next start continues.

        What fails for want of space is tried again by the next append: without a descriptor the old file is done with.
        """
        if self._descriptor >= 0:
            os.fdatasync(self._descriptor)
            self._write_checkpoint()
            self._path.rename(self._path.with_name(f"{self._path.name}.{self.generation}"))
            os.close(self._descriptor)
            self._descriptor = -1
        self._begin_file()
        self._write_checkpoint()
        log.info("event_log.rotated", generation=self.generation)

    def _begin_file(self) -> None:
        generation = secrets.token_hex(16)
        opened = Event(
            at=self._now(),
            decky=self._host,
            service="decnet",
            event_type=EventType.LOG_OPENED,
            trust=Trust.SENSOR,
            source=f"log:{generation}",
            cursor="0",
            fields={"generation": generation},
        )
        line = encode(to_syslog(opened)) + b"\n"
        # Under its name only when its first line is whole: who opens it learns the generation.
        replace_file(self._path, line, LOG_MODE)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = len(line)
        self.generation = generation

    def _write_checkpoint(self) -> None:
        document = {
            "boot_id": _boot_id(),
            "generation": self.generation,
            "offset": self._size,
            "cursors": self._cursors,
        }
        replace_file(self._checkpoint_path, json.dumps(document).encode(), SECRET_MODE)
        self._checkpoint_at = self._size

    def _read_checkpoint(self) -> tuple[str, int, dict[str, str], str] | None:
        try:
            document = json.loads(self._checkpoint_path.read_bytes())
            generation, offset = str(document["generation"]), int(document["offset"])
            cursors = {str(source): str(cursor) for source, cursor in document["cursors"].items()}
            for cursor in cursors.values():
                cursor_key(cursor)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, RemoteProtocolError):
            log.warning("event_log.checkpoint_ignored", path=str(self._checkpoint_path))
            return None
        else:
            return generation, offset, cursors, str(document.get("boot_id"))

    def _failure(self, cause: OSError) -> Unavailable:
        if cause.errno in _FULL:
            return _full(self._path)
        return Unavailable(
            f"The event log {self._path} cannot be written: {cause.strerror}", "Check the disk (`dmesg`), then restart."
        )


def _full(path: Path) -> RetryLater:
    return RetryLater(f"There is no space for the event log {path}", "Free some space; nothing is lost meanwhile.")


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _generation_of(path: Path) -> str | None:
    """Read a file's generation from its first line; None when there is no such file or it is not ours."""
    first = next(_lines(path, 0), None) if path.exists() else None
    if first is None:
        return None
    try:
        generation = decode(first).params.get("generation", "")
    except RemoteProtocolError:
        generation = ""
    if _GENERATION.fullmatch(generation) is None:
        aside = path.with_name(f"{path.name}.foreign-{secrets.token_hex(4)}")
        path.rename(aside)
        sync_folder(path.parent)
        log.warning("event_log.foreign_file_moved", path=str(path), aside=str(aside))
        return None
    return generation


def _lines(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]
