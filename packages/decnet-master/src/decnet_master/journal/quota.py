"""How much the journal may hold, and when it must wait: a watermark with two levels.

What ends the journal's growth is either its own bound or the disk's: it leaves `min_free_bytes` to others, above all to
the database, which must grow for the journal to shrink. Above the watermark the writer refuses every append, so that
nothing is acknowledged and the workers keep their lines. It lets them in again by itself, and only once there is room
worth the name (an eighth of each bound), so that a full journal does not open and shut with every segment that the
ingester gives back.

The writer tells what it appends; what the ingester deletes is seen when it matters, by listing the folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from decnet_core.errors import RetryLater
from decnet_master.journal.segments import segment_numbers, segment_path

UNBOUNDED_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class Quota:
    """Bounds of a journal: bytes of all its segments, and bytes that it leaves free on its disk."""

    limit_bytes: int = UNBOUNDED_BYTES
    min_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a journal's folder holds, and what its disk has left, in bytes."""

    journal_bytes: int
    free_bytes: int


class JournalFull(RetryLater):
    """The journal takes nothing until the ingester has caught up or the disk has room."""


def usage(folder: Path) -> Usage:
    """Measure a journal's folder; one that does not exist holds nothing.

    Raises:
        OSError: the disk cannot be read.
    """
    if not folder.is_dir():
        return Usage(0, 0)
    disk = os.statvfs(folder)
    return Usage(sum(_size(segment_path(folder, number)) for number in segment_numbers(folder)), _free_bytes(disk))


class Watermark:
    """Kept by the one writer of a folder."""

    def __init__(self, folder: Path, quota: Quota) -> None:
        self._folder = folder
        self._quota = quota
        self._at_most_bytes = UNBOUNDED_BYTES  # what the segments hold, or more: others delete
        self._is_full = False

    def admit(self, size_bytes: int) -> None:
        """Count what is about to be appended, or refuse it.

        Raises:
            JournalFull: there is no room for it.
            OSError: the disk cannot be read.
        """
        quota = self._quota
        limit_bytes, min_free_bytes = quota.limit_bytes, quota.min_free_bytes
        if self._is_full:
            limit_bytes, min_free_bytes = limit_bytes - limit_bytes // 8, min_free_bytes + min_free_bytes // 8
        if self._at_most_bytes + size_bytes > limit_bytes:
            self._at_most_bytes = usage(self._folder).journal_bytes
        free_bytes = _free_bytes(os.statvfs(self._folder)) if min_free_bytes else UNBOUNDED_BYTES
        self._is_full = True
        if self._at_most_bytes + size_bytes > limit_bytes:
            raise JournalFull(
                f"The journal holds {self._at_most_bytes >> 20} MiB of the {quota.limit_bytes >> 20} that it may",
                "See whether the ingester runs and the database takes rows, or raise journal-quota-mib; "
                "workers keep their lines and send them by themselves.",
            )
        if free_bytes - size_bytes < min_free_bytes:
            raise JournalFull(
                f"The journal's disk has {free_bytes >> 20} MiB left, and {quota.min_free_bytes >> 20} must stay free",
                "Free space under the data-directory, or lower journal-min-free-mib; "
                "workers keep their lines and send them by themselves.",
            )
        self._is_full = False
        self._at_most_bytes += size_bytes


def _free_bytes(disk: os.statvfs_result) -> int:
    return disk.f_bavail * disk.f_frsize


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the ingester has just deleted it
        return 0
