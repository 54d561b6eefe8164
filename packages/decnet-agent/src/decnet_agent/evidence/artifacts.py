"""Give out what the tap has kept: captured files and recordings, each by its hash, and nothing else of the disk.

The tap writes as root; what is in the quarantine belongs to the group of the data directory and may be read by it,
which is all that the agent may. A content is named by its SHA-256 alone: no path comes from outside. It is read in
pieces, in another thread, because a disk is slow; who asks hashes it himself.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path

from decnet_core.errors import NotFound, RemoteProtocolError, RetryLater, Unavailable

GIVEN_AT_ONCE = 4
"""Each is an open file and one piece in memory."""
PIECE_BYTES = 256 << 10

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Artifacts:
    """The quarantine, as a reader sees it.

    Args:
        folder: of the quarantine; need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._given = 0

    def open(self, sha256: str) -> Artifact:
        """Open a content; the caller reads it to its end, or closes it.

        Raises:
            RemoteProtocolError: the text is no hash.
            NotFound: it is not kept here.
            RetryLater: too many are being read.
            Unavailable: it cannot be read.
        """
        if not _SHA256.fullmatch(sha256):
            raise RemoteProtocolError("An artifact is named by its SHA-256", "64 digits of 0-9 and a-f.")
        if self._given >= GIVEN_AT_ONCE:
            raise RetryLater(f"{GIVEN_AT_ONCE} artifacts are being fetched already", "Try again in a moment.")
        try:
            fd = os.open(self._folder / sha256[:2] / sha256, _FLAGS)
        except FileNotFoundError:
            raise NotFound(
                "This worker keeps no such artifact", "Another may: fetch it by the event's worker."
            ) from None
        except OSError as cause:
            raise Unavailable(
                f"The artifact cannot be read: {cause.strerror}", "The agent must be of the quarantine's group."
            ) from cause
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise NotFound("This worker keeps no such artifact", "")
        self._given += 1
        return Artifact(self, fd, status.st_size)

    def closed(self) -> None:
        """Take in that one was closed."""
        self._given -= 1


class Artifact:
    """One open content."""

    def __init__(self, artifacts: Artifacts, fd: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._artifacts, self._fd = artifacts, fd

    async def pieces(self) -> AsyncIterator[bytes]:
        """Give it piece by piece; no more than its size, and it is closed at the end, however that comes."""
        at = 0
        try:
            while at < self.size_bytes:
                wanted = min(PIECE_BYTES, self.size_bytes - at)
                piece = await asyncio.to_thread(os.pread, self._fd, wanted, at)
                if not piece:
                    return
                at += len(piece)
                yield piece
        finally:
            self.close()

    def close(self) -> None:
        """Close it; again is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._artifacts.closed()
