"""Keep what attackers wrote: each content once, under its own hash, for ever out of their reach.

Layout: `<folder>/<first two hex digits>/<sha256>` holds the content and `<sha256>.json` beside it where it was first
seen. Both are complete or absent: they are written under a temporary name and renamed. `<folder>/partial/` holds the
unfinished; it is emptied at start.

Bounds: one file gives at most `file_bytes` (the rest is cut off, `truncated` says so, the hash is of what is kept);
all together at most `total_bytes` of disk, whole blocks and notes counted: a hundred thousand files of one byte are
800 MB. Beyond that contents are still hashed and told of, but not kept.

All work is done relative to descriptors of our own folders, symbolic links are never followed, and no file is
executable. It does not scan, unpack or judge.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from decnet_core.errors import Unavailable

FILE_BYTES = 64 << 20
"""Malware of servers is under 20 MiB; more is somebody's data or an attempt to fill the disk."""
TOTAL_BYTES = 4 << 30

_CHUNK_BYTES = 256 << 10
_BLOCK_BYTES = 4096
"""What ext4 and xfs give to the smallest file."""
_PARTIAL = "partial"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a content. `stored_as` is relative to the folder, None when there was no room."""

    sha256: str
    size_bytes: int
    truncated: bool
    stored_as: str | None


class Quarantine:
    """The folder; may be used by several threads.

    Raises:
        Unavailable: the folder cannot be made or read.
    """

    def __init__(self, folder: Path, *, file_bytes: int = FILE_BYTES, total_bytes: int = TOTAL_BYTES) -> None:
        self._file_bytes, self._total_bytes = file_bytes, total_bytes
        self._turn = threading.Lock()
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._folder = os.open(folder, _DIRECTORY)
            # Whoever owns the data directory may read what is kept, and nothing more.
            self._group = folder.parent.stat().st_gid
            os.fchown(self._folder, -1, self._group)
            self._partial = self._directory(_PARTIAL)
            for name in os.listdir(self._partial):  # noqa: PTH208 -- Path knows no descriptors
                os.unlink(name, dir_fd=self._partial)
            self.used_bytes = self._measure()
        except OSError as cause:
            raise Unavailable(
                f"Cannot use the quarantine {folder}: {cause.strerror}", "Make its folder writable for root."
            ) from cause

    def keep(self, fd: int, about: Mapping[str, object]) -> Kept:
        """Copy an open regular file.

        Args:
            fd: read from its beginning; not closed.
            about: JSON-ready facts that are written beside a content seen for the first time.

        Raises:
            Unavailable: the file could not be read, or the disk is full.
        """
        name = secrets.token_hex(8)
        try:
            with self._turn:
                with self._create(name) as copy:
                    digest, kept_bytes = self._copy(fd, copy)
                    size_bytes = max(os.fstat(fd).st_size, kept_bytes)
                stored_as = self._store(name, digest, kept_bytes, about)
        except OSError as cause:
            raise Unavailable(
                f"Cannot quarantine a file: {cause.strerror}", "Look at the disk's free space."
            ) from cause
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._partial)
        return Kept(digest, size_bytes, size_bytes > kept_bytes, stored_as)

    def close(self) -> None:
        """Close the folders."""
        os.close(self._partial)
        os.close(self._folder)

    def _copy(self, fd: int, copy: BinaryIO) -> tuple[str, int]:
        digest, at = sha256(), 0
        room = self._total_bytes - self.used_bytes
        while at < self._file_bytes and (chunk := os.pread(fd, min(_CHUNK_BYTES, self._file_bytes - at), at)):
            digest.update(chunk)
            at += len(chunk)
            if at <= room:  # beyond it only the hash is of use
                copy.write(chunk)
        return digest.hexdigest(), at

    def _store(self, name: str, digest: str, kept_bytes: int, about: Mapping[str, object]) -> str | None:
        place = f"{digest[:2]}/{digest}"
        shelf = self._directory(digest[:2])
        try:
            if _exists(digest, shelf):
                return place
            note = json.dumps({"sha256": digest, "size_bytes": kept_bytes, **about}).encode()
            cost_bytes = _on_disk(kept_bytes) + _on_disk(len(note))
            if cost_bytes > self._total_bytes - self.used_bytes:
                return None
            with self._create(f"{name}.json") as file:
                file.write(note)
            os.rename(f"{name}.json", f"{digest}.json", src_dir_fd=self._partial, dst_dir_fd=shelf)
            os.rename(name, digest, src_dir_fd=self._partial, dst_dir_fd=shelf)
            self.used_bytes += cost_bytes
        finally:
            os.close(shelf)
        return place

    def _create(self, name: str) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o640, dir_fd=self._partial)
        os.fchown(fd, -1, self._group)
        return os.fdopen(fd, "wb", buffering=0)

    def _directory(self, name: str) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o750, dir_fd=self._folder)
        fd = os.open(name, _DIRECTORY, dir_fd=self._folder)
        os.fchown(fd, -1, self._group)
        return fd

    def _measure(self) -> int:
        total = 0
        for shelf_name in os.listdir(self._folder):  # noqa: PTH208 -- as above
            shelf = os.open(shelf_name, _DIRECTORY, dir_fd=self._folder)
            try:
                names = os.listdir(shelf)  # noqa: PTH208 -- as above
                total += sum(_on_disk(os.stat(name, dir_fd=shelf, follow_symlinks=False).st_size) for name in names)
            finally:
                os.close(shelf)
        return total


def _on_disk(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
