"""Which generations of which files were seen: `<data-directory>/logship/files.json`, for a restart to know them again.

A generation is what a file's name holds between two rotations; the master knows it by a random stream name. Our own
event log says it in its first line; for any other file it is remembered here, bound to device, inode, the bytes that
the file begins with, the bytes before what the master has, and the last whole lines that were seen. The last are what
tells a file from the one that took its place by truncation, where all files begin alike and the master has little yet.

- What stands here for our own event log is a hint: the first line and the master's RESUME are the truth.
- For other files it is what makes a restart exact, so a generation is written before the master hears of it. Without
  this file they are shipped again from their beginnings, under other names: twice rather than not at all.
- The file is written whole (temporary, fsync, rename, fsync of the folder). What cannot be read in it is left out.

A beginning below `TELLING_BYTES` proves nothing: inodes are reused within seconds, and many logs begin alike. A file
that is so short is the same one after a restart only if nothing at all happened to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import structlog

from decnet_core.pki.durable import PUBLIC_MODE, replace_file
from decnet_core.shipping.control import is_stream
from decnet_logship.tail import LONGEST_LABEL_BYTES, LogFile

TELLING_BYTES = 64
MAX_GENERATIONS = 64
"""Of one path; the oldest is forgotten first."""

_MAX_BYTES = 4 << 20
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Generation:
    """What was last seen of a file.

    Attributes:
        stream: the name that the master knows.
        label: stands before each of its lines.
        device, inode: where it lay.
        head_bytes, head_sha256: of its beginning.
        acked_bytes, acked_sha256: how much of it the master has, and the digest of what lies before that.
        size_bytes, mtime_ns, ctime_ns: as stat(2) has them.
        seen_bytes, seen_sha256: behind the last whole line that was seen, and the digest of what lies before that; 0 in
            what an older release wrote.
        boot_id: when that was: a power cut may shorten a file, a running system does not.
        finished: the master has all of it, and it grows no more.
    """

    stream: str
    label: str
    device: int
    inode: int
    head_bytes: int
    head_sha256: str
    acked_bytes: int
    acked_sha256: str
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    boot_id: str
    finished: bool = False
    seen_bytes: int = 0
    seen_sha256: str = ""

    @classmethod
    def of(cls, file: LogFile, *, finished: bool = False) -> Generation:
        """Describe an open file."""
        there, seen_bytes = file.stat(), file.seen_bytes
        return cls(
            stream=file.generation,
            label=file.label.decode("ascii"),
            device=there.st_dev,
            inode=there.st_ino,
            head_bytes=len(file.head),
            head_sha256=hashlib.sha256(file.head).hexdigest(),
            acked_bytes=file.acked_bytes,
            acked_sha256=file.digest_before(file.acked_bytes),
            size_bytes=there.st_size,
            mtime_ns=there.st_mtime_ns,
            ctime_ns=there.st_ctime_ns,
            boot_id=boot_id(),
            finished=finished,
            seen_bytes=seen_bytes,
            seen_sha256=file.digest_before(seen_bytes),
        )

    def is_file(self, file: LogFile) -> bool:
        """Tell whether it is this very file: same place, same bytes."""
        there = file.stat()
        if not self.lay_at(there):
            return False
        untouched = (there.st_size, there.st_mtime_ns, there.st_ctime_ns) == (
            self.size_bytes,
            self.mtime_ns,
            self.ctime_ns,
        )
        if self.head_bytes < TELLING_BYTES:
            return untouched
        is_whole = self.boot_id != boot_id() or there.st_size >= self.seen_bytes
        return is_whole and self.has_content_of(file)

    def lay_at(self, there: os.stat_result) -> bool:
        """Tell whether a file lies where it lay, whatever it holds."""
        return (there.st_dev, there.st_ino) == (self.device, self.inode)

    def has_content_of(self, file: LogFile) -> bool:
        """Tell whether a file, wherever it lies, begins as this one did and holds what the master has of it.

        It may end before what was seen of it: a copy that was made too early does, and a file after a power cut.
        """
        size_bytes = file.stat().st_size
        return (
            self._begins(file)
            and size_bytes >= self.acked_bytes
            and file.digest_before(self.acked_bytes) == self.acked_sha256
            and (not 0 < self.seen_bytes <= size_bytes or file.digest_before(self.seen_bytes) == self.seen_sha256)
        )

    def is_copied_to(self, file: LogFile) -> bool:
        """Tell whether a file may be a copy of it: the content that is known, and no older."""
        return self.has_content_of(file) and (self.finished or file.stat().st_mtime_ns >= self.mtime_ns)

    def is_cut_copy(self, file: LogFile) -> bool:
        """Tell whether a file may be a copy that was made before the last lines that the master has were written."""
        there = file.stat()
        return self._begins(file) and there.st_size < self.acked_bytes and there.st_mtime_ns >= self.mtime_ns

    def _begins(self, file: LogFile) -> bool:
        head = file.head[: self.head_bytes]
        return len(head) == self.head_bytes >= TELLING_BYTES and hashlib.sha256(head).hexdigest() == self.head_sha256


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was known at one moment; later ones have greater numbers."""

    number: int
    data: bytes


class Register:
    """The generations of all paths that are shipped, oldest first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)
        self._taken = 0
        self._written = Snapshot(0, b"")
        self._lock = threading.Lock()

    def of(self, path: Path) -> list[Generation]:
        """List what is known of a path."""
        return list(self._known.get(str(path), {}).values())

    def find(self, path: Path, stream: str) -> Generation | None:
        """Look one up."""
        return self._known.get(str(path), {}).get(stream)

    def put(self, path: Path, generation: Generation) -> None:
        """Take note of one; a new one is the youngest."""
        known = self._known.setdefault(str(path), {})
        known[generation.stream] = generation
        if len(known) > MAX_GENERATIONS:
            del known[next(iter(known))]

    def drop(self, path: Path, stream: str) -> None:
        """Forget one."""
        self._known.get(str(path), {}).pop(stream, None)

    def snapshot(self) -> Snapshot:
        """Take what is known, to be written beside the loop."""
        document = {path: [asdict(one) for one in known.values()] for path, known in self._known.items()}
        self._taken += 1
        return Snapshot(self._taken, json.dumps(document, indent=1).encode() + b"\n")

    def write(self, snapshot: Snapshot | None = None) -> None:
        """Make durable what is known, if that changed; a snapshot that is older than what was written is left.

        Raises:
            OSError: the folder cannot be written.
        """
        snapshot = snapshot or self.snapshot()
        with self._lock:
            if snapshot.number <= self._written.number or snapshot.data == self._written.data:
                return
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            replace_file(self._path, snapshot.data, PUBLIC_MODE)
            self._written = snapshot


def boot_id() -> str:
    """Name this boot of the machine; empty where the kernel does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _read(path: Path) -> dict[str, dict[str, Generation]]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as cause:
        log.warning("generations.unreadable", path=str(path), reason=type(cause).__name__)
        return {}
    known: dict[str, dict[str, Generation]] = {}
    for name, entries in document.items() if isinstance(document, dict) else ():
        read = [_generation(entry) for entry in (entries if isinstance(entries, list) else ())]
        known[name] = {one.stream: one for one in read if one is not None}
    return known


def _generation(entry: object) -> Generation | None:
    if not isinstance(entry, dict):
        return None
    entry.setdefault("seen_bytes", 0)  # an older release wrote none
    entry.setdefault("seen_sha256", "")
    if set(entry) != {field.name for field in fields(Generation)}:
        return None
    kinds = {"str": str, "int": int, "bool": bool}
    if any(type(entry[field.name]) is not kinds[str(field.type)] for field in fields(Generation)):
        return None
    one = Generation(**entry)
    fits = is_stream(one.stream) and one.label.isascii() and len(one.label) <= LONGEST_LABEL_BYTES
    return one if fits and "\n" not in one.label and min(one.head_bytes, one.acked_bytes, one.seen_bytes) >= 0 else None
