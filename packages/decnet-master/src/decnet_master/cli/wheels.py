"""`bundle`: the wheels that new workers are sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decnet_master.cli import terminal
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_master.bootstrap.bundles import Manifest

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def group() -> typer.Typer:
    """Build the group of verbs."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keep the wheels that new workers are sent.")
    app.command("build")(_build)
    app.command("show")(_show)
    return app


def _build(
    wheels: Annotated[Path, typer.Option(help="A folder with this release's wheels and all that they bring.")],
    as_json: Json = False,
) -> None:
    """Take from a folder of wheels what workers need. What was there of this release is replaced.

    The wheel of pip belongs into it, for a bare host has none. `scripts/wheelhouse` of the source tree fills a folder.
    """
    import decnet_master  # noqa: PLC0415 -- as below
    from decnet_master.bootstrap.bundles import Bundles  # noqa: PLC0415 -- heavy

    folder = MasterSettings.load().bundles_directory
    _tell(Bundles(folder).build(wheels, decnet_master.__version__), as_json=as_json)


def _show(as_json: Json = False) -> None:
    """Show which workers the bundle of this release is for."""
    import decnet_master  # noqa: PLC0415 -- as below
    from decnet_master.bootstrap.bundles import Bundles  # noqa: PLC0415 -- heavy

    _tell(Bundles(MasterSettings.load().bundles_directory).load(decnet_master.__version__), as_json=as_json)


def _tell(manifest: Manifest, *, as_json: bool) -> None:
    from decnet_master.bootstrap.bundles import coverage  # noqa: PLC0415 -- heavy

    covered = coverage(manifest)
    size_bytes = sum(wheel.bytes for wheel in manifest.wheels)
    if as_json:
        targets = [{"target": kind.target, "lacks": kind.lacks} for kind in covered]
        terminal.print_json(
            {"version": manifest.version, "wheels": len(manifest.wheels), "bytes": size_bytes, "targets": targets}
        )
        return
    terminal.say(f"Release {manifest.version}: {len(manifest.wheels)} wheels, {size_bytes >> 20} MiB")
    terminal.print_table(
        ("worker", "", "lacks"), [(kind.target, terminal.yes(kind.lacks is None), kind.lacks) for kind in covered]
    )
