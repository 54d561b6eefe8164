"""The file in which decky images travel to a worker without a mirror: one tar of two members.

    images.tar       what the engine's own save wrote: `docker load` reads it, too, once it is taken out
    manifest.json    format, sha256 and size of images.tar, and each image: its tag, its services, its key, its id

An image's id is the hash of what it is made of, so what the engine says that it loaded is held against the manifest as
well. The hash of `images.tar` is the one to write down and compare at the other end: a file that was changed on its
way has another, and nothing of it reaches the engine.

Written as a stream, at a hundred megabytes each image: nothing is held in memory.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from decnet_core.errors import RemoteProtocolError
from decnet_core.fleet import ServiceName

IMAGES = "images.tar"
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
CHUNK_BYTES = 1 << 20

_HEX = r"^[0-9a-f]{64}$"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArchivedImage(_Part):
    """One image; the base has no services."""

    tag: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._/:-]{0,255}$")]
    services: Annotated[tuple[ServiceName, ...], Field(max_length=32)]
    key: str
    id: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Manifest(_Part):
    """What an archive holds."""

    format: Literal[1] = 1
    sha256: Annotated[str, Field(pattern=_HEX)]
    size_bytes: Annotated[int, Field(ge=1)]
    images: Annotated[tuple[ArchivedImage, ...], Field(min_length=1, max_length=256)]


def write_archive(path: Path, saved: Iterable[bytes], images: Sequence[ArchivedImage]) -> Manifest:
    """Write an archive; it has its name when it is whole.

    Args:
        path: replaced if it is there.
        saved: what the engine saved.
        images: that it saved.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    digest, size = hashlib.sha256(), 0
    try:
        with partial.open("wb") as file:
            file.write(bytes(tarfile.BLOCKSIZE))
            for chunk in saved:
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.write(bytes(-size % tarfile.BLOCKSIZE))
            manifest = Manifest(sha256=digest.hexdigest(), size_bytes=size, images=tuple(images))
            text = manifest.model_dump_json(indent=2).encode() + b"\n"
            file.write(_header(MANIFEST, len(text)) + text + bytes(-len(text) % tarfile.BLOCKSIZE))
            file.write(bytes(2 * tarfile.BLOCKSIZE))
            file.seek(0)
            file.write(_header(IMAGES, size))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return manifest


class OpenArchive:
    """An archive that was opened for reading and whose manifest was read; `verify` comes before `images`.

    Raises:
        OSError: it cannot be read.
        RemoteProtocolError: it is no such archive.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._name = name
        try:
            self._tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - the caller closes the file
            self._images = self._member(IMAGES)
            self.manifest = self._read_manifest()
        except (tarfile.TarError, EOFError) as cause:
            raise self._misfit(f"it is no archive: {cause}") from cause

    def verify(self) -> None:
        """Hold the images against the manifest.

        Raises:
            RemoteProtocolError: they differ.
        """
        digest, stream = hashlib.sha256(), self.images()
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
        if self._images.size != self.manifest.size_bytes or digest.hexdigest() != self.manifest.sha256:
            raise self._misfit(f"{IMAGES} is not what {MANIFEST} says")

    def images(self) -> IO[bytes]:
        """Return what the engine loads, from its beginning."""
        stream = self._tar.extractfile(self._images)
        if stream is None:
            raise self._misfit(f"{IMAGES} is no file")
        return stream

    def _read_manifest(self) -> Manifest:
        member = self._member(MANIFEST)
        stream = self._tar.extractfile(member)
        if stream is None or member.size > MAX_MANIFEST_BYTES:
            raise self._misfit(f"{MANIFEST} is no file of that kind")
        try:
            return Manifest.model_validate_json(stream.read())
        except ValidationError as cause:
            fault = cause.errors()[0]
            where = ".".join(map(str, fault["loc"])) or "as a whole"
            raise self._misfit(f"{MANIFEST}: {where}: {fault['msg']}") from cause

    def _member(self, name: str) -> tarfile.TarInfo:
        try:
            member = self._tar.getmember(name)
        except KeyError as cause:
            raise self._misfit(f"there is no {name} in it") from cause
        if not member.isreg():
            raise self._misfit(f"{name} is no file")
        return member

    def _misfit(self, why: str) -> RemoteProtocolError:
        return RemoteProtocolError(
            f"{self._name} cannot be used: {why}", "Copy it again, or make it again with `decnet-agent images export`."
        )


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return io.BytesIO(info.tobuf(tarfile.GNU_FORMAT)).getvalue()
