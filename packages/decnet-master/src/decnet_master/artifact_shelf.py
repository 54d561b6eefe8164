"""Where the master keeps what it has fetched from workers: each content once, under its own hash, for its eyes alone.

    <data-directory>/artifacts/<first two digits>/<sha256>   0600, whole or absent
    <data-directory>/artifacts/partial/                      what is still coming; emptied at start

What a worker sends is hashed while it is written, and gets its name only if the hash is the one that was asked for: a
worker that was broken into can withhold evidence, not change it. Nothing here is ever executed, unpacked or shown.

Bounds: `MAX_BYTES` for one, `TOTAL_BYTES` for all; what is over is refused, and nothing is thrown away for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any, BinaryIO

from decnet_core.errors import ConfigError, NotFound, RemoteProtocolError, Unavailable
from decnet_core.pki.durable import sync_folder

MAX_BYTES = 64 << 20
"""As much as a worker's tap keeps of one file."""
TOTAL_BYTES = 16 << 30

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class ArtifactShelf:
    """The folder.

    Raises:
        ConfigError: it cannot be made or read.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES, total_bytes: int = TOTAL_BYTES) -> None:
        self._folder, self._partial = folder, folder / "partial"
        self._max_bytes, self._total_bytes = max_bytes, total_bytes
        try:
            self._partial.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            for left in self._partial.iterdir():
                left.unlink()
            self.used_bytes = sum(file.stat().st_size for file in folder.glob("??/*"))
        except OSError as cause:
            raise ConfigError(
                f"Cannot use {folder}: {cause.strerror}", "Give it to the user who runs decnet-master."
            ) from cause

    def find(self, sha256: str) -> Path:
        """Tell where a content lies.

        Raises:
            RemoteProtocolError: the text is no hash.
            NotFound: it is not here.
        """
        path = self._path(sha256)
        if not path.is_file():
            raise NotFound("The master has no such artifact", f"`decnet-master artifacts fetch {sha256}` fetches it.")
        return path

    def has(self, sha256: str) -> bool:
        """Tell whether a content is here."""
        return self._path(sha256).is_file()

    @contextlib.contextmanager
    def incoming(self, sha256: str) -> Iterator[Incoming]:
        """Take a content in: what was written when the block ends is kept, if it is what the hash says.

        Raises:
            RemoteProtocolError: the text is no hash, what came is something else, or it is larger than any.
            Unavailable: there is no room, or the disk fails.
        """
        path, partial = self._path(sha256), self._partial / secrets.token_hex(8)
        room = self._total_bytes - self.used_bytes
        try:
            with os.fdopen(os.open(partial, _FLAGS, 0o600), "wb") as file:
                taking = Incoming(file, self._max_bytes, room)
                yield taking
                if taking.digest.hexdigest() != sha256:
                    raise RemoteProtocolError(
                        "What the worker sent is not what its hash says", "Look into the worker: it is broken or lies."
                    )
                file.flush()
                os.fsync(file.fileno())
            is_new = not path.exists()
            path.parent.mkdir(mode=0o700, exist_ok=True)
            partial.replace(path)
            sync_folder(path.parent)
            self.used_bytes += taking.size_bytes if is_new else 0
        except OSError as cause:
            raise Unavailable(f"The artifact cannot be kept: {cause.strerror}", "Look at the disk's room.") from cause
        finally:
            partial.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise RemoteProtocolError("An artifact is named by its SHA-256", "64 digits of 0-9 and a-f.")
        return self._folder / sha256[:2] / sha256


@dataclass
class Incoming:
    """A content that is coming."""

    file: BinaryIO
    max_bytes: int
    room_bytes: int
    size_bytes: int = 0
    digest: Any = field(default_factory=sha256_of)

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            RemoteProtocolError: it is larger than any artifact.
            Unavailable: there is no room.
            OSError: the disk fails.
        """
        self.size_bytes += len(data)
        if self.size_bytes > self.max_bytes:
            raise RemoteProtocolError(f"The artifact is larger than {self.max_bytes} bytes")
        if self.size_bytes > self.room_bytes:
            raise Unavailable("There is no room for more artifacts", "Remove fetched ones that are no longer needed.")
        self.digest.update(data)
        self.file.write(data)
