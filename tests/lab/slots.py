"""Numbered places that one run owns at a time, whatever happened to the run before.

A slot is a lock file. Its owner holds an exclusive flock(2) on it, and the kernel drops that with the owner's last
breath, `kill -9` included: so a slot that can be locked has no living owner, and whatever it left behind (a daemon, a
namespace, containers) is litter that the new owner may clear. Nothing here depends on process ids, which are reused.

The descriptor is close-on-exec, so no child keeps a dead owner's slot.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from decnet_core.errors import Unavailable


class MissingPart(Unavailable):
    """A part of the lab that this machine lacks; the advice says how to get it."""


@dataclass(frozen=True)
class Slot:
    """One claimed slot: its number, and the descriptor that keeps it ours."""

    number: int
    descriptor: int

    def release(self) -> None:
        """Let the next run have it."""
        os.close(self.descriptor)


def claim(folder: Path, number: int) -> Slot | None:
    """Claim one slot of a folder, or return None while somebody living has it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Slot(number, descriptor)


def free(folder: Path, numbers: range) -> Iterator[Slot]:
    """Claim, one after the other, every slot without a living owner; the caller releases what it does not keep."""
    for number in numbers:
        slot = claim(folder, number)
        if slot is not None:
            yield slot


def cache_folder() -> Path:
    """Return the folder for what is worth keeping between runs: images, the engine's layers."""
    return Path(os.environ.get("DECNET_LAB_CACHE", "/var/cache/decnet-lab"))


def run_folder() -> Path:
    """Return the folder for sockets, locks and process ids; its path is short, for a socket's path holds 107 bytes."""
    return Path(os.environ.get("DECNET_LAB_RUN", "/run/decnet-lab"))


def machine_folder() -> Path:
    """Return the folder for the locks of what the kernel names for the whole machine: interfaces and namespaces.

    It is the same for every run, whatever folder that has for its own: two runs that each had locks of their own would
    take one another's segments for those of the dead.
    """
    return Path("/run/decnet-lab")


def require_root(what: str) -> None:
    """Refuse to go on without root, naming what needs it."""
    if os.geteuid() != 0:
        raise MissingPart(f"{what} needs root", "Run it as root")


def require_program(program: str, package: str) -> str:
    """Return the path of a program, or say which Debian package brings it."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise MissingPart(
            f"{program} is not installed", f"Run: apt-get install {package} (scripts/setup does it as root)"
        )
    return path
