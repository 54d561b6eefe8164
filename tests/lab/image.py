"""The decky images, built without a registry and kept between runs.

    mmdebstrap ──▶ decky-rootfs:bookworm ──▶ decky-base:bookworm ──▶ decky-ssh:bookworm ──▶ decky-ssh-telnet:bookworm
                   (docker import)           (images/base)           (images/ssh)           (images/telnet)

What an image is made of is hashed (files, modes, the image below it) into its label `context`; an image with the
right label is left alone, so a warm call costs a few milliseconds. What was built is also kept as one archive in
`<cache>/images`, from which the engine of another slot, or an emptied one, is filled in seconds. The archive holds
every tag above: an engine that loaded them has the same names as one that built them. Builders take turns by a lock.

Beside them stands `plain-debian:bookworm`, which nothing of ours has touched: what the deckies are compared with. It is
made when somebody asks for it, and kept in an archive of its own.

`DECNET_LAB_MIRROR` names the Debian mirror of an air-gapped site; without it mmdebstrap takes Debian's own. Nothing
is pulled from a registry.

The scheme of tags and labels is the agent's own, so an agent that deploys on such an engine finds its image ready.

`python -m tests.lab.image` prepares the images of the first free engine, saying what it does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import APIError, BuildError, ImageNotFound

from decnet_core.errors import DecnetError
from tests.lab import slots
from tests.lab.engine import LabEngine
from tests.lab.slots import MissingPart

SUITE = "bookworm"
ROOTFS_TAG = f"decky-rootfs:{SUITE}"
BASE_TAG = f"decky-base:{SUITE}"
SSH_TAG = f"decky-ssh:{SUITE}"
BOTH_TAG = f"decky-ssh-telnet:{SUITE}"
PLAIN_TAG = f"plain-debian:{SUITE}"
CONTEXTS = Path(__file__).resolve().parents[2] / "packages/decnet-agent/src/decnet_agent/images"

_LABEL = "context"
_ROOTFS_SECS = 900  # measured 19 s; a slow mirror takes minutes
_ROOTFS_RECIPE = b"mmdebstrap minbase 1"  # changes when the flags below do

Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Step:
    """An image: where it is built, and the argument by which its recipe takes the image that it stands on."""

    tag: str
    folder: Path
    argument: str
    below: str


_DECKIES = (
    _Step(BASE_TAG, CONTEXTS / "base", "ROOTFS", ROOTFS_TAG),
    _Step(SSH_TAG, CONTEXTS / "ssh", "BASE", BASE_TAG),
    _Step(BOTH_TAG, CONTEXTS / "telnet", "BASE", SSH_TAG),
)
_PLAIN = (_Step(PLAIN_TAG, Path(__file__).with_name("plain"), "ROOTFS", ROOTFS_TAG),)


def ensure_images(engine: LabEngine, progress: Progress | None = None) -> str:
    """Bring the engine to hold the current decky images.

    Args:
        engine: the running engine to fill.
        progress: called with one line before each step that takes long.

    Returns:
        The tag of the SSH decky's image; `BOTH_TAG`, which has telnet as well, is there too.

    Raises:
        MissingPart: mmdebstrap is missing, neither a mirror nor a kept archive is at hand, or the engine refuses.
    """
    _ensure(engine, _DECKIES, progress or _silently)
    return SSH_TAG


def ensure_plain_image(engine: LabEngine) -> str:
    """Bring the engine to hold a plain Debian with sshd and telnetd; return its tag, and raise as `ensure_images`."""
    ensure_images(engine)  # the root file system under both is one image
    _ensure(engine, _PLAIN, _silently)
    return PLAIN_TAG


def is_prepared() -> bool:
    """Tell whether the archive of the current images is at hand, without asking an engine."""
    return _archive(_DECKIES).exists()


def main() -> int:
    """Prepare the images, or do nothing at once when they are there."""
    started = time.monotonic()
    try:
        if not is_prepared():
            with LabEngine() as engine:
                ensure_images(engine, lambda line: print(f"==> {line}", flush=True))
            print(f"==> Decky images are ready ({time.monotonic() - started:.0f} s)", flush=True)
    except DecnetError as error:
        print(f"error: {error.message}\n  {error.advice}", file=sys.stderr)
        return int(error.exit_code)
    return 0


def _silently(line: str) -> None:
    del line


def _folder() -> Path:
    return slots.cache_folder() / "images"


def _ensure(engine: LabEngine, steps: Sequence[_Step], progress: Progress) -> None:
    client = engine.client()
    try:
        if _has_all(client, steps):
            return
        with _taking_turns():
            archive = _archive(steps)
            if archive.exists():
                progress("Loading the images into the engine")
                with archive.open("rb") as stream:
                    client.images.load(stream)
            if not _has_all(client, steps):
                _build_all(client, steps, progress)
                _keep(client, steps, progress)
                client.images.prune(filters={"dangling": True})
    except APIError as error:
        raise MissingPart(
            f"the engine at {engine.docker_host} refused: {error.explanation or error}", "Read the engine's log"
        ) from error
    finally:
        client.close()


def _keys(steps: Sequence[_Step]) -> dict[str, str]:
    """Return the keys of images by tag: what each is made of, down to the root file system."""
    keys = {ROOTFS_TAG: hashlib.sha256(_ROOTFS_RECIPE + SUITE.encode() + platform.machine().encode()).hexdigest()}
    for step in steps:
        keys[step.tag] = _context_key(step.folder, keys[step.below])
    del keys[ROOTFS_TAG]  # it has no label
    return keys


def _archive(steps: Sequence[_Step]) -> Path:
    last = steps[-1].tag
    return _folder() / f"{last.partition('-')[0]}-all-{_keys(steps)[last][:16]}.tar"


def _context_key(folder: Path, below: str) -> str:
    digest = hashlib.sha256(below.encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            digest.update(
                f"{name}\0{path.stat().st_mode & 0o111}\0{path.stat().st_size}\0".encode() + path.read_bytes()
            )
    return digest.hexdigest()


def _has_all(client: docker.DockerClient, steps: Sequence[_Step]) -> bool:
    return all(_has(client, tag, key) for tag, key in _keys(steps).items())


def _has(client: docker.DockerClient, tag: str, key: str) -> bool:
    try:
        return client.images.get(tag).labels.get(_LABEL) == key
    except ImageNotFound:
        return False


def _build_all(client: docker.DockerClient, steps: Sequence[_Step], progress: Progress) -> None:
    if steps is _DECKIES:
        rootfs = rootfs_archive(progress)
        progress(f"Importing {ROOTFS_TAG}")
        client.api.import_image_from_file(str(rootfs), repository="decky-rootfs", tag=SUITE)
    keys = _keys(steps)
    for step in steps:
        _build(client, step, keys[step.tag], progress)


def rootfs_archive(progress: Progress) -> Path:
    """Return the archive of a minimal Debian, made by mmdebstrap when it is not there yet."""
    path = _folder() / f"rootfs-{SUITE}-{platform.machine()}.tar"
    if path.exists():
        return path
    slots.require_root("mmdebstrap")
    mmdebstrap = slots.require_program("mmdebstrap", "mmdebstrap debian-archive-keyring")
    progress(f"Making a root file system of Debian {SUITE} with mmdebstrap (about 20 s)")
    partial = path.with_suffix(".partial.tar")
    # mmdebstrap copies this machine's name and resolver into the tree: they are nobody's business
    argv = [mmdebstrap, "--variant=minbase", "--quiet", '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"']
    argv += [SUITE, str(partial)]
    if mirror := os.environ.get("DECNET_LAB_MIRROR"):
        argv.append(mirror)
    try:
        subprocess.run(argv, check=True, capture_output=True, timeout=_ROOTFS_SECS, stdin=subprocess.DEVNULL)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        partial.unlink(missing_ok=True)
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()[-3:]
        raise MissingPart(
            f"mmdebstrap could not make a Debian {SUITE} tree: {' | '.join(said) or error}",
            "Check that the Debian mirror is reachable, or name another one in DECNET_LAB_MIRROR",
        ) from error
    partial.rename(path)
    return path


def _build(client: docker.DockerClient, step: _Step, key: str, progress: Progress) -> None:
    progress(f"Building {step.tag}")
    try:
        client.images.build(
            path=str(step.folder),
            tag=step.tag,
            buildargs={step.argument: step.below},
            labels={_LABEL: key},
            network_mode="host",  # the lab's engine has no bridge; apt-get inside needs the mirror
            rm=True,
            forcerm=True,
        )
    except (BuildError, APIError) as error:
        said = [str(part.get("stream") or part.get("error") or "").strip() for part in getattr(error, "build_log", [])]
        ending = " | ".join(line for line in said if line)[-600:]
        raise MissingPart(
            f"{step.tag} could not be built: {error}: {ending}",
            "Check that the Debian mirror is reachable from this machine",
        ) from error


def _keep(client: docker.DockerClient, steps: Sequence[_Step], progress: Progress) -> None:
    progress("Keeping the images for other engines")
    archive, names = _archive(steps), [*_keys(steps)]
    if steps is _DECKIES:
        names.append(ROOTFS_TAG)
    for old in _folder().glob(f"{archive.name.partition('-')[0]}-*.tar"):
        old.unlink()
    partial = archive.with_suffix(".partial")
    with partial.open("wb") as stream:
        # the library saves one image at a time, and each with all that it stands on
        url = f"{client.api.base_url}/v{client.api.api_version}/images/get"
        saved = client.api.get(url, params={"names": names}, stream=True)
        saved.raise_for_status()
        for chunk in saved.iter_content(1 << 20):
            stream.write(chunk)
    partial.rename(archive)


@contextmanager
def _taking_turns() -> Iterator[None]:
    _folder().mkdir(parents=True, exist_ok=True)
    with (_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    raise SystemExit(main())
