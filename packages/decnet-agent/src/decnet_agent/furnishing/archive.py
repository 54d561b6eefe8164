"""What is unpacked in a decky before it first starts: entries, and the one archive that they make."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """One file, folder or symbolic link to unpack."""

    path: str
    content: bytes | None
    """None is a folder, or a link."""
    mode: int
    uid: int = 0
    gid: int = 0
    at_secs: int | None = None
    """Its date, Unix time; None is now."""
    link: str | None = None
    """Where a symbolic link points."""


def to_tar(entries: Sequence[ArchiveEntry], now_secs: int) -> bytes:
    """Pack the entries; those without a date are dated `now_secs`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
            info.mtime = now_secs if entry.at_secs is None else entry.at_secs
            if entry.link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, entry.link
                archive.addfile(info)
            elif entry.content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(entry.content)
                archive.addfile(info, io.BytesIO(entry.content))
    return buffer.getvalue()
