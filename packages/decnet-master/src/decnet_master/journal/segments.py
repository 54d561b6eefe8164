"""The files of a journal's folder: names of segments, and the `durable` marker between the writer and its readers.

The marker is 20 bytes: segment u64, offset u64 (big-endian), CRC-32 of the two. The writer overwrites it in place,
and only after fdatasync, so whatever version of it a power cut leaves behind never claims too much. It is not synced
itself: an older one hides records from readers until the writer has started again and published anew. A reader that
meets it half-written reads it again.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

DURABLE_FILE = "durable"
LOCK_FILE = "lock"

_SEGMENT = re.compile(r"(\d{16})\.seg")
_MARKER = struct.Struct("!QQ")
_CRC = struct.Struct("!I")
_MARKER_READS = 100
"""The writer holds it half-written for less than a microsecond; a hundred reads mean that it is really broken."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place between two records: number of a segment and byte offset in it; `START` is before all of them."""

    segment: int
    offset: int


START = Position(0, 0)


def segment_path(folder: Path, number: int) -> Path:
    """Name a segment's file."""
    return folder / f"{number:016d}.seg"


def segment_numbers(folder: Path) -> list[int]:
    """List the segments that exist, oldest first; none when the folder does not exist."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in map(_SEGMENT.fullmatch, names) if match)


def encode_marker(position: Position) -> bytes:
    """Write the marker."""
    body = _MARKER.pack(position.segment, position.offset)
    return body + _CRC.pack(zlib.crc32(body))


def read_marker(folder: Path) -> Position:
    """Read how far records are durable; `START` when nothing was published or the marker is broken."""
    path = folder / DURABLE_FILE
    for _ in range(_MARKER_READS):
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return START
        body = raw[: _MARKER.size]
        if len(raw) == _MARKER.size + _CRC.size and _CRC.unpack_from(raw, _MARKER.size) == (zlib.crc32(body),):
            return Position(*_MARKER.unpack(body))
    return START


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable.

    Raises:
        OSError: it cannot be.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
