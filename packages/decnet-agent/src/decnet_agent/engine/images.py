"""The part of the Docker room that knows images: which are there, what they would be made of, how they are built.

A set of services is one image, tagged by the set and labelled with its key (`image_contexts`). Where the base image
is missing but the composed image is there, as on a site that was given it by `docker load`, that one is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from decnet_agent.contracts import Makeup
from decnet_agent.engine.contexts import BASE, LABEL, ImageContexts, image_tag
from decnet_core.errors import ConfigError, Conflict, NotFound, Unavailable

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image as DockerImage

_LAST_LINES = 5
_BUILD_SILENCE_SECS = 600
"""A build may say nothing for so long: one slow download."""

log = structlog.get_logger()


class EngineImages:
    """Images for deckies on one engine."""

    def __init__(self, contexts: ImageContexts, base_image: str, rootfs_image: str) -> None:
        self._contexts = contexts
        self._base_image = base_image
        self._rootfs_image = rootfs_image

    def tag(self, services: tuple[str, ...]) -> str:
        """Name the image of a set."""
        return image_tag(services)

    def sources(self, service_sets: Sequence[tuple[str, ...]]) -> list[str]:
        """Name the images of which a worker that can run anything has one."""
        return [self._base_image, self._rootfs_image, *map(image_tag, service_sets)]

    def survey(
        self, client: DockerClient, service_sets: Sequence[tuple[str, ...]]
    ) -> tuple[Mapping[tuple[str, ...], str], frozenset[tuple[str, ...]]]:
        """Return the key of every set's image that is there or can be made, and the sets whose image is there."""
        known = self._contexts.services()
        base_key = self._base_key(client)
        keys: dict[tuple[str, ...], str] = {}
        present: set[tuple[str, ...]] = set()
        for services in set(service_sets):
            there = _key_of(_image(client, image_tag(services)))
            if not known.issuperset(services) or not self._fits(services):
                continue
            if base_key is None and there is not None:
                keys[services] = there
            elif base_key is not None:
                keys[services] = self._chain(services, base_key)[-1]
            if services in keys and keys[services] == there:
                present.add(services)
        return keys, frozenset(present)

    def makeup(self, services: tuple[str, ...]) -> Makeup:
        """Tell what a machine with these services needs and offers; raises as `ImageContexts.makeup` does."""
        return self._contexts.makeup(services)

    def build(self, client: DockerClient, services: tuple[str, ...]) -> None:
        """Make the image of a set.

        Raises:
            NotFound: there is no base image and nothing to make one from, or no such service.
            ConfigError: a service's contract breaks a rule.
            Conflict: the services do not fit together.
            Unavailable: the build failed; the message holds its last words.
        """
        if unknown := set(services) - self._contexts.services():
            raise NotFound(
                f"There is no service {', '.join(sorted(unknown))}",
                f"There are: {', '.join(sorted(self._contexts.services()))}.",
            )
        self._contexts.makeup(services)
        base_key = self._base_key(client)
        if base_key is None:
            raise NotFound(
                f"Neither {self._base_image} nor {self._rootfs_image} is on this engine",
                "Import a minimal Debian: `mmdebstrap --variant=minbase bookworm - | docker import - "
                f"{self._rootfs_image}`.",
            )
        if _image(client, self._base_image) is None:
            self._build_one(client, BASE, self._base_image, base_key, {"ROOTFS": self._rootfs_image})
        below = self._base_image
        for count, key in enumerate(self._chain(services, base_key), start=1):
            target = image_tag(services[:count])
            if _key_of(_image(client, target)) != key:
                self._build_one(client, services[count - 1], target, key, {"BASE": below})
            below = target

    def _fits(self, services: tuple[str, ...]) -> bool:
        try:
            self._contexts.makeup(services)
        except (ConfigError, Conflict) as error:
            log.warning("image.refused", services=" ".join(services), reason=error.message)
            return False
        return True

    def _base_key(self, client: DockerClient) -> str | None:
        base = _image(client, self._base_image)
        if base is not None:
            return _key_of(base) or str(base.id)
        rootfs = _image(client, self._rootfs_image)
        return None if rootfs is None else self._contexts.key(BASE, str(rootfs.id))

    def _chain(self, services: tuple[str, ...], base_key: str) -> list[str]:
        keys: list[str] = []
        for service in services:
            keys.append(self._contexts.key(service, keys[-1] if keys else base_key))
        return keys

    def _build_one(self, client: DockerClient, context: str, target: str, key: str, arguments: dict[str, str]) -> None:
        from docker.errors import BuildError  # noqa: PLC0415 - the room imports it lazily

        log.info("image.build_started", image=target)
        try:
            client.images.build(
                path=str(self._contexts.folder(context)),
                tag=target,
                buildargs=arguments,
                labels={LABEL: key},
                network_mode="host",  # the packages come from a mirror that the host reaches
                use_config_proxy=True,
                timeout=_BUILD_SILENCE_SECS,
                rm=True,
                forcerm=True,
            )
        except BuildError as cause:
            # The error itself repeats the whole command; what it printed before says why.
            said = [str(part.get("stream") or "").strip() for part in cause.build_log]
            ending = " | ".join([line for line in said if line][-_LAST_LINES:])
            raise Unavailable(
                f"{target} cannot be built: {ending[-600:]}",
                "Check that this worker reaches a Debian mirror, or load the image from another worker "
                "(`docker save`, `docker load`).",
            ) from cause
        log.info("image.built", image=target)


def _image(client: DockerClient, name: str) -> DockerImage | None:
    from docker.errors import ImageNotFound  # noqa: PLC0415 - the room imports it lazily

    try:
        return client.images.get(name)
    except ImageNotFound:
        return None


def _key_of(image: DockerImage | None) -> str | None:
    return None if image is None else image.labels.get(LABEL)
