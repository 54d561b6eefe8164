"""The build contexts of decky images: where they lie and what identifies them.

    images/base/        what every decky shares; built FROM the ROOTFS argument
    images/<service>/   one service; built FROM the BASE argument, so that services stack; its contract.toml says what
                        it needs and offers (`decnet_agent.contracts`)

An image for a set of services is the base with each service's context on top, in sorted order. Its key is a hash
over everything that it is made of, the image below included, and is kept in its label `context`: an image with the
right label is used as it is, whoever built it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from decnet_agent.contracts import Contract, Makeup, makeup, read_contract
from decnet_core.errors import ConfigError

LABEL = "context"
BASE = "base"
TAG = "bookworm"


class ImageContexts:
    """The folder of contexts; None is the one that this package brings."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory if directory is not None else Path(__file__).parent.parent / "images"

    def services(self) -> frozenset[str]:
        """Every service that an image can be built for.

        Raises:
            ConfigError: the folder cannot be read.
        """
        try:
            return frozenset(
                path.parent.name for path in self._directory.glob("*/Dockerfile") if path.parent.name != BASE
            )
        except OSError as cause:
            raise self._unreadable(cause) from cause

    def contract(self, service: str) -> Contract:
        """Read a service's contract.

        Raises:
            ConfigError: it is missing or breaks a rule.
        """
        return read_contract(self.folder(service))

    def makeup(self, services: tuple[str, ...]) -> Makeup:
        """Tell what a machine with these services needs and offers.

        Raises:
            ConfigError: a contract is missing or breaks a rule.
            Conflict: they do not fit together.
        """
        return makeup([self.contract(service) for service in services])

    def folder(self, name: str) -> Path:
        """Where one context lies."""
        return self._directory / name

    def key(self, name: str, below: str) -> str:
        """Identify what one context makes on top of the image `below` (its key).

        Raises:
            ConfigError: the folder cannot be read.
        """
        digest = hashlib.sha256(below.encode())
        folder = self.folder(name)
        try:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    state = path.stat()
                    head = f"{path.relative_to(folder).as_posix()}\0{state.st_mode & 0o111}\0{state.st_size}\0"
                    digest.update(head.encode() + path.read_bytes())
        except OSError as cause:
            raise self._unreadable(cause) from cause
        return digest.hexdigest()

    def _unreadable(self, cause: OSError) -> ConfigError:
        return ConfigError(
            f"The decky images in {self._directory} cannot be read: {cause.strerror}",
            "Correct images-directory, or leave it out to use those of the package.",
        )


def image_tag(services: tuple[str, ...]) -> str:
    """Name the image of a set of services."""
    return f"decky-{'-'.join(services)}:{TAG}"
