"""The folder in which recordings are written before they are kept: one file each, 0600, appended to at a known place.

How long a file is, is what the tap's memory says; bytes behind that were written by a tap that was killed before it
had them safe, and are cut off when the file is opened again. So the same record, read twice, is there once. A file
whose content is in the quarantine gets another name before that is told, and is removed after: it is never told twice.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from decnet_core.errors import Unavailable

_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = ".kept"
_LINE_BYTES = 64 << 10
"""Longer than any line of a recording: 4 KiB of control characters are 24."""


class RecordingFiles:
    """The files that are being written.

    Raises:
        Unavailable: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._open: dict[str, int] = {}
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
            os.fchmod(self._folder, 0o700)
        except OSError as cause:
            raise Unavailable(f"Cannot use {folder}: {cause.strerror}", "Make its folder writable for root.") from cause

    def make(self, name: str, data: bytes) -> None:
        """Make a file that begins with these bytes.

        Raises:
            OSError: it cannot be made; there is none then.
        """
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=self._folder)
        self._open[name] = fd
        try:
            self.append(name, 0, data)
        except OSError:
            self.remove(name)
            raise

    def reopen(self, name: str, length_bytes: int) -> bool:
        """Go on with a file of an earlier tap; tell whether it is there and as long as it must be at least."""
        with contextlib.suppress(FileNotFoundError):
            os.rename(name + _KEPT, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        try:
            fd = os.open(name, os.O_WRONLY | _FLAGS, dir_fd=self._folder)
        except OSError:
            return False
        if os.fstat(fd).st_size < length_bytes:
            os.close(fd)
            return False
        os.ftruncate(fd, length_bytes)
        self._open[name] = fd
        return True

    def append(self, name: str, at_bytes: int, data: bytes) -> None:
        """Write behind what is safe.

        Raises:
            OSError: the disk is full or fails; what may have been written lies beyond what counts.
        """
        fd, view = self._open[name], memoryview(data)
        while view:
            written = os.pwrite(fd, view, at_bytes)
            view, at_bytes = view[written:], at_bytes + written

    def open(self, name: str) -> int:
        """Open a file for reading; the caller closes it."""
        return os.open(name, os.O_RDONLY | _FLAGS, dir_fd=self._folder)

    def remove(self, name: str) -> None:
        """Remove a file that is done with."""
        fd = self._open.pop(name, None)
        if fd is not None:
            os.close(fd)
        for each in (name, name + _KEPT):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(each, dir_fd=self._folder)

    def mark_kept(self, name: str) -> None:
        """Note that a file is in the quarantine, and that this is about to be safe."""
        os.rename(name, name + _KEPT, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def orphans(self, known: set[str]) -> list[str]:
        """List the files of which the tap's memory knows nothing, because it is another boot's; drop what is kept."""
        found = []
        for name in sorted(os.listdir(self._folder)):  # noqa: PTH208 -- Path knows no descriptors
            if name.endswith(_KEPT):
                os.unlink(name, dir_fd=self._folder)
            elif name not in known:
                found.append(name)
        return found

    def adopt(self, name: str) -> tuple[bytes, bytes, int]:
        """Go on with a file of another boot.

        Returns:
            Its first and its last whole line, and how long it is up to there.
        """
        fd = os.open(name, os.O_RDWR | _FLAGS, dir_fd=self._folder)
        self._open[name] = fd
        size_bytes = os.fstat(fd).st_size
        first = os.pread(fd, _LINE_BYTES, 0).partition(b"\n")[0]
        start = max(0, size_bytes - _LINE_BYTES)
        whole, _, _ = os.pread(fd, _LINE_BYTES, start).rpartition(b"\n")
        return first, whole.rpartition(b"\n")[2], start + len(whole) + 1

    def close(self) -> None:
        """Close all."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        os.close(self._folder)
