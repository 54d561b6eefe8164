"""The stock of decky images on this worker's engine: what is there, made now, carried out and brought in.

What a person does with `decnet-agent images`; a deploy builds what it lacks by itself. The first image needs a
minimal Debian below it: where the engine has none, mmdebstrap makes one from any Debian mirror. No registry is asked.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decnet_agent.engine.archive import CHUNK_BYTES, ArchivedImage, Manifest, OpenArchive, write_archive
from decnet_agent.engine.contexts import LABEL, TAG, ImageContexts, image_tag
from decnet_agent.engine.images import EngineImages
from decnet_core.errors import (
    ConfigError,
    DecnetError,
    NotFound,
    RemoteProtocolError,
    TrustError,
    Unavailable,
)

if TYPE_CHECKING:
    from docker import DockerClient

CALL_SECS = 600
"""One answer of the engine: it saves, loads or imports hundreds of megabytes in between."""

ROOTFS_SECS = 1800
"""mmdebstrap takes 20 s from a mirror nearby; a slow one takes minutes."""

ServiceSet = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StockedImage:
    """One image of a set of services; the base has no services.

    Attributes:
        current: whether a deploy would use it as it is.
        size_bytes: of all its layers.
    """

    tag: str
    services: ServiceSet
    id: str
    key: str
    current: bool
    size_bytes: int


class ImageStock:
    """The images on one engine. Every call blocks; every error is a DecnetError."""

    def __init__(self, docker_host: str, contexts: ImageContexts, *, base_image: str, rootfs_image: str) -> None:
        self._docker_host = docker_host
        self._contexts = contexts
        self._base_image, self._rootfs_image = base_image, rootfs_image
        self._images = EngineImages(contexts, base_image, rootfs_image)

    def every_service(self) -> list[ServiceSet]:
        """Return a set for each service alone."""
        return [(service,) for service in sorted(self._contexts.services())]

    def list(self) -> list[StockedImage]:
        """List the base and the images of sets of services."""
        with self._talking("list the images") as client:
            found = {
                tag: image for image in client.images.list(filters={"label": LABEL}) for tag in image.tags
            }  # one image may have two tags
            sets = {tag: services for tag in found if (services := self._set_of(tag)) is not None}
            keys, present = self._images.survey(client, list(sets.values()))
            stocked = [
                self._stocked(tag, found[tag], services, current=services in present and services in keys)
                for tag, services in sorted(sets.items())
            ]
            if self._base_image in found:
                stocked.insert(0, self._stocked(self._base_image, found[self._base_image], (), current=True))
            return stocked

    def build(self, sets: Sequence[ServiceSet], mirror: str | None = None) -> None:
        """Make the images of these sets, and what they stand on, unless they are there.

        Args:
            sets: of services.
            mirror: of Debian, for the first tree; None is Debian's own.

        Raises:
            NotFound: there is no such service, or nothing to make the first tree with.
            Conflict: services of a set do not fit together.
            ConfigError: a contract breaks a rule.
            Unavailable: the engine or a mirror does not answer, or a build failed.
        """
        for services in sets:
            self._require_known(services)
            self._contexts.makeup(services)
        with self._talking("build the images") as client:
            if not self._has_ground(client):
                self._import_rootfs(client, mirror)
            for services in sets:
                self._images.build(client, services)

    def export(self, path: Path, sets: Sequence[ServiceSet]) -> Manifest:
        """Write the base and the images of these sets into one file.

        Raises:
            NotFound: an image is not there, or not what would be built now.
            Unavailable: the engine does not answer, or the file cannot be written.
        """
        stocked = {image.services: image for image in self.list()}
        missing = [" ".join(services) for services in sets if services not in stocked or not stocked[services].current]
        if missing or () not in stocked:
            raise NotFound(
                f"There is no current image for {', '.join(missing) or self._base_image}", "`images build` makes it."
            )
        chosen = [stocked[()], *(stocked[services] for services in dict.fromkeys(sets))]
        images = [ArchivedImage(tag=item.tag, services=item.services, key=item.key, id=item.id) for item in chosen]
        with self._talking("save the images") as client:
            # The library saves one image at a time, and each with all that it stands on.
            url = f"{client.api.base_url}/v{client.api.api_version}/images/get"
            saved = client.api.get(url, params={"names": [image.tag for image in images]}, stream=True)
            saved.raise_for_status()
            try:
                return write_archive(path, saved.iter_content(CHUNK_BYTES), images)
            except OSError as cause:
                raise Unavailable(
                    f"{path} cannot be written: {cause.strerror}", "Free some space, or choose another place."
                ) from cause

    def import_(self, path: Path, sha256: str | None = None) -> Manifest:
        """Load an archive's images, once it has been verified.

        Args:
            path: what `export` wrote.
            sha256: what `export` printed, when the file came over a way that is not trusted.

        Raises:
            TrustError: it is another archive than `sha256` says.
            RemoteProtocolError: it is damaged, or no such archive.
            NotFound: there is no such file.
        """
        try:
            with path.open("rb") as file:
                archive = OpenArchive(file, str(path))
                if sha256 is not None and archive.manifest.sha256 != sha256.lower():
                    raise TrustError(
                        f"{path} has the hash {archive.manifest.sha256}, and another one was expected",
                        "Compare with what `images export` printed, and copy the file again.",
                    )
                archive.verify()
                with self._talking("load the images") as client:
                    client.images.load(archive.images())
                    self._require_loaded(client, archive.manifest)
                return archive.manifest
        except OSError as cause:
            raise NotFound(f"{path} cannot be read: {cause.strerror}", "Correct the path.") from cause

    def _require_loaded(self, client: DockerClient, manifest: Manifest) -> None:
        there = {tag: str(image.id) for image in client.images.list() for tag in image.tags}
        for image in manifest.images:
            if there.get(image.tag) != image.id:
                client.images.remove(image.tag, force=True)
                raise RemoteProtocolError(
                    f"{image.tag} is another image than the archive's manifest says", "Make the archive again."
                )

    def _require_known(self, services: ServiceSet) -> None:
        if unknown := set(services) - self._contexts.services():
            raise NotFound(
                f"There is no service {', '.join(sorted(unknown))}",
                f"There are: {', '.join(sorted(self._contexts.services()))}.",
            )

    def _set_of(self, tag: str) -> ServiceSet | None:
        """Tell of which services a tag's image is made; None for other images."""
        words = tag.removeprefix("decky-").removesuffix(f":{TAG}").split("-")
        known = self._contexts.services()
        services: list[str] = []
        while words:  # a service's own name may hold hyphens: the longest that is known
            for count in range(len(words), 0, -1):
                if "-".join(words[:count]) in known:
                    services.append("-".join(words[:count]))
                    words = words[count:]
                    break
            else:
                return None
        return tuple(services) if image_tag(tuple(services)) == tag else None

    def _stocked(self, tag: str, image: Any, services: ServiceSet, *, current: bool) -> StockedImage:
        key = str(image.labels.get(LABEL, ""))
        return StockedImage(tag, services, str(image.id), key, current, int(image.attrs.get("Size", 0)))

    def _has_ground(self, client: DockerClient) -> bool:
        present = {tag for image in client.images.list() for tag in image.tags}
        return not present.isdisjoint((self._base_image, self._rootfs_image))

    def _import_rootfs(self, client: DockerClient, mirror: str | None) -> None:
        mmdebstrap = shutil.which("mmdebstrap")
        if mmdebstrap is None:
            raise NotFound(
                f"The engine holds neither {self._base_image} nor {self._rootfs_image}, and mmdebstrap is not here",
                "`apt-get install mmdebstrap debian-archive-keyring`, or bring images in: `images import FILE`.",
            )
        repository, _, tag = self._rootfs_image.partition(":")
        with tempfile.TemporaryDirectory(prefix="rootfs-") as folder:
            tree = Path(folder) / "rootfs.tar"
            _make_tree(mmdebstrap, tree, mirror)
            client.api.import_image_from_file(str(tree), repository=repository, tag=tag or "latest")

    @contextmanager
    def _talking(self, doing: str) -> Iterator[DockerClient]:
        """Open the engine's client, and turn what the library raises into errors of ours."""
        from docker import DockerClient  # noqa: PLC0415 - the room imports it lazily
        from docker.errors import APIError, DockerException  # noqa: PLC0415
        from requests.exceptions import RequestException  # noqa: PLC0415 - the library's own, it lets them through

        client: DockerClient | None = None
        try:
            client = DockerClient(base_url=self._docker_host, timeout=CALL_SECS, version="auto")
            yield client
        except DecnetError:
            raise
        except APIError as cause:
            raise Unavailable(f"Cannot {doing}: {cause.explanation or cause}", "The engine's log says more.") from cause
        except (DockerException, RequestException, OSError) as cause:
            raise Unavailable(
                f"Cannot {doing}: no Docker engine answers at {self._docker_host}",
                "Start Docker, let this user read its socket (group docker), or set docker-host.",
            ) from cause
        finally:
            if client is not None:
                client.close()


def _make_tree(mmdebstrap: str, tree: Path, mirror: str | None) -> None:
    # mmdebstrap copies this machine's name and resolver into the tree: they are nobody's business
    hook = '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"'
    argv = [mmdebstrap, "--variant=minbase", "--quiet", hook, TAG, str(tree), *([mirror] if mirror else [])]
    try:
        subprocess.run(argv, check=True, capture_output=True, timeout=ROOTFS_SECS, stdin=subprocess.DEVNULL)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as cause:
        said = (cause.stderr or b"").decode(errors="replace").strip().splitlines()[-3:]
        raise Unavailable(
            f"mmdebstrap could not make a Debian {TAG} tree: {' | '.join(said)[-400:] or 'it took too long'}",
            "Check that the mirror is reachable from here, or name another one with --mirror.",
        ) from cause


def parse_set(text: str) -> ServiceSet:
    """Read a set of services as a person writes it: `ssh+telnet`, in any order.

    Raises:
        ConfigError: it is empty.
    """
    services = tuple(sorted({word for word in text.split("+") if word}))
    if not services:
        raise ConfigError(f"{text!r} names no service", "Write services with + between them, such as ssh+telnet.")
    return services


def parse_sets(texts: Iterable[str]) -> list[ServiceSet]:
    """Read several sets, each once."""
    return list(dict.fromkeys(parse_set(text) for text in texts))
