"""The wheels that a master hands to new workers, on its disk.

    <data-directory>/bundles/<version>.json          what belongs to a release: a `Manifest`
    <data-directory>/bundles/wheels/<sha256>.whl     the wheels of all of them, by what they hash to

A manifest is replaced in one step and after its wheels are on the disk, so that a reader sees a whole bundle or the one
before it, and a worker that is downloading finds what it was promised: a wheel that no manifest names any more goes
with the next `build`. Builders take turns by a lock. The master serves the bundle of its own version and no other.

What is kept is chosen, not copied: of a folder of wheels only what a worker can need (`wheels.reachable`), and of our
own packages only those of the master's version. So no code of the master's can get onto a worker that way.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from decnet_core.errors import ConfigError, NotFound, RemoteProtocolError
from decnet_core.fleet import Contract
from decnet_core.pki.durable import PUBLIC_MODE, replace_file, sync_folder
from decnet_master.bootstrap.wheels import (
    MAX_WHEELS,
    PROGRAMS,
    Target,
    Wheel,
    pythons_of,
    reachable,
    requirements,
    select,
)

MAX_METADATA_BYTES = 1 << 20
ANY_GLIBC = (2, 9999)
_BUILD = "Run `decnet-master bundle build --wheels DIR`."


class Manifest(Contract):
    """A bundle: the release that it is of, and its wheels."""

    version: Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.+!]*$", max_length=64)]
    wheels: Annotated[tuple[Wheel, ...], Field(max_length=MAX_WHEELS)]


@dataclass(frozen=True, slots=True)
class Coverage:
    """One kind of worker, and what it lacks (None: nothing)."""

    target: str
    lacks: str | None


class Bundles:
    """The folder of the bundles."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, version: str) -> Manifest:
        """Read the bundle of a release.

        Raises:
            NotFound: there is none.
            ConfigError: it cannot be read.
        """
        path = self._folder / f"{version}.json"
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise NotFound(f"This master has no bundle of release {version} for new workers", _BUILD) from None
        except OSError as cause:
            raise ConfigError(f"{path} cannot be read: {cause.strerror}", "Run as the user decnet.") from cause
        except ValidationError:
            raise ConfigError(f"{path} is damaged", _BUILD) from None

    def path(self, sha256: str) -> Path:
        """Return where the wheel of this hash lies, if there is one; 64 lower-case hex digits."""
        return self._folder / "wheels" / f"{sha256}.whl"

    def build(self, source: Path, version: str) -> Manifest:
        """Make the bundle of a release from a folder of wheels, over the one that there may be.

        Raises:
            NotFound: the folder holds no wheels of this release, or no kind of worker is covered.
            RemoteProtocolError: a file in it is no wheel.
            ConfigError: a folder cannot be read or written.
        """
        try:
            found = {path: _read(path) for path in sorted(source.glob("*.whl"))}
            kept = set(reachable([wheel for wheel in found.values() if _is_of(wheel, version)]))
            manifest = Manifest(version=version, wheels=tuple(wheel for wheel in found.values() if wheel in kept))
            missing = set(PROGRAMS.values()) - {wheel.project for wheel in kept}
            if missing:
                raise NotFound(f"{source} has no wheel of {min(missing)} {version}", "Name a folder that has them all.")
            covered = coverage(manifest)
            if not any(kind.lacks is None for kind in covered):
                reasons = "; ".join(kind.lacks for kind in covered if kind.lacks) or "it has no compiled wheels"
                raise NotFound(f"With the wheels in {source} no worker can be installed: {reasons}", "Add what lacks.")
            with self._turn():
                for path, wheel in found.items():
                    if wheel in kept:
                        self._keep(path, wheel)
                replace_file(self._folder / f"{version}.json", manifest.model_dump_json().encode(), PUBLIC_MODE)
                self._drop_unnamed()
                self._hand_over()
        except OSError as cause:
            raise ConfigError(
                f"{cause.filename or source}: {cause.strerror}", "Run as a user who may read and write there."
            ) from cause
        except ValidationError:
            raise ConfigError(f"{source} holds more than {MAX_WHEELS} wheels", "Name a folder of its own.") from None
        return manifest

    def _keep(self, path: Path, wheel: Wheel) -> None:
        target = self.path(wheel.sha256)
        temporary = target.with_suffix(".new")
        shutil.copyfile(path, temporary)
        if _sha256(temporary) != wheel.sha256:
            raise ConfigError(f"{path} changed while it was read", "Try again.")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(PUBLIC_MODE)
        temporary.replace(target)
        sync_folder(target.parent)

    def _drop_unnamed(self) -> None:
        named = {wheel.sha256 for path in self._folder.glob("*.json") for wheel in self.load(path.stem).wheels}
        for path in (self._folder / "wheels").iterdir():
            if path.stem not in named:
                path.unlink()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        (self._folder / "wheels").mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _hand_over(self) -> None:
        """Give what root made to the owner of the data directory, as whom the controller runs."""
        if os.geteuid() == 0:
            owner = self._folder.parent.stat()
            for path in (self._folder, *self._folder.rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def coverage(manifest: Manifest) -> list[Coverage]:
    """Tell for each kind of worker that a bundle has compiled wheels for whether it has all the others too."""
    found = []
    for minor, machine in pythons_of(manifest.wheels):
        lacks = None
        try:
            select(manifest.wheels, Target(minor=minor, machine=machine, glibc=ANY_GLIBC), sorted(PROGRAMS))
        except NotFound as error:
            lacks = error.message
        found.append(Coverage(f"Python 3.{minor} on {machine}", lacks))
    return found


def _is_of(wheel: Wheel, version: str) -> bool:
    return not wheel.project.startswith("decnet-") or wheel.version == version


def _read(path: Path) -> Wheel:
    needs, may_need = requirements(_requires(path))
    try:
        return Wheel(file=path.name, sha256=_sha256(path), bytes=path.stat().st_size, needs=needs, may_need=may_need)
    except ValidationError as cause:
        raise RemoteProtocolError(f"{path} is named unlike a wheel, or too large", "Take it out of there.") from cause


def _requires(path: Path) -> Sequence[str]:
    try:
        with zipfile.ZipFile(path) as wheel:
            (name,) = [
                name for name in wheel.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1
            ]
            with wheel.open(name) as file:
                return BytesHeaderParser().parsebytes(file.read(MAX_METADATA_BYTES)).get_all("Requires-Dist", [])
    except (zipfile.BadZipFile, ValueError) as cause:
        raise RemoteProtocolError(f"{path} is no wheel", "Take it out of there, or download it again.") from cause


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
