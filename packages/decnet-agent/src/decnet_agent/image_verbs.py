"""`decnet-agent images …`: what a person sees of the stock of decky images."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from decnet_agent.engine.archive import Manifest
from decnet_agent.engine.contexts import ImageContexts
from decnet_agent.engine.stock import ImageStock, parse_sets
from decnet_agent.settings import AgentSettings
from decnet_core.errors import ExitCode

_ID_CHARS = 12


def list_images(settings: AgentSettings, *, as_json: bool) -> int:
    """Print which images are there, and whether a deploy would use each as it is."""
    stocked = _stock(settings).list()
    if as_json:
        sys.stdout.write(json.dumps([asdict(image) for image in stocked], indent=2) + "\n")
        return ExitCode.OK
    for image in stocked:
        state = "current" if image.current else "outdated"
        what = "+".join(image.services) or "(base)"
        sys.stdout.write(f"{what:<24} {state:<9} {image.size_bytes / 1e6:>6.0f} MB  {_short(image.id)}  {image.tag}\n")
    if not stocked:
        sys.stdout.write("There are none; `decnet-agent images build` makes them.\n")
    return ExitCode.OK


def build_images(settings: AgentSettings, sets: Sequence[str], mirror: str | None) -> int:
    """Make the images of these sets, or of every service alone."""
    stock = _stock(settings)
    stock.build(parse_sets(sets) or stock.every_service(), mirror)
    return list_images(settings, as_json=False)


def export_images(settings: AgentSettings, file: str, sets: Sequence[str]) -> int:
    """Write images into a file, those of every service alone by default, and print its hash."""
    stock = _stock(settings)
    _print_manifest(file, stock.export(Path(file), parse_sets(sets) or stock.every_service()))
    return ExitCode.OK


def import_images(settings: AgentSettings, file: str, sha256: str | None) -> int:
    """Bring the images of a file in."""
    _print_manifest(file, _stock(settings).import_(Path(file), sha256))
    return ExitCode.OK


def _stock(settings: AgentSettings) -> ImageStock:
    return ImageStock(
        settings.docker_host,
        ImageContexts(settings.images_directory),
        base_image=settings.base_image,
        rootfs_image=settings.rootfs_image,
    )


def _print_manifest(file: str, manifest: Manifest) -> None:
    for image in manifest.images:
        sys.stdout.write(f"{'+'.join(image.services) or '(base)':<24} {_short(image.id)}  {image.tag}\n")
    sys.stdout.write(f"{file}: {manifest.size_bytes / 1e6:.0f} MB, sha256 {manifest.sha256}\n")


def _short(identity: str) -> str:
    return identity.removeprefix("sha256:")[:_ID_CHARS]
