"""`artifacts list`, `artifacts fetch`: what attackers wrote, and recordings of what they did."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from decnet_core.errors import ConfigError
from decnet_master.cli import terminal
from decnet_master.cli.options import Json, Url
from decnet_master.settings import MasterSettings

_SHA256 = re.compile(r"[0-9a-f]{64}")


def group() -> typer.Typer:
    """Build the group of verbs."""
    app = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Files that attackers wrote, and recordings of terminals."
    )
    app.command("list")(_list)
    app.command("fetch")(_fetch)
    return app


def _list(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many of the newest.")] = 50,
    decky: Annotated[str | None, typer.Option(help="Only of this decky.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what workers keep, the newest first."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy
    from decnet_master.swarmctl.artifact_messages import ArtifactList  # noqa: PLC0415 -- heavy

    query = {"limit": [str(limit)]} | ({"decky": [decky]} if decky is not None else {})
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        found = controller.ask("GET", "/artifacts", ArtifactList, query=query)
    if as_json:
        terminal.print_json(found.model_dump(mode="json"))
        return
    terminal.print_table(
        ("SHA256", "Kind", "Bytes", "Decky", "Worker", "From", "User", "At", "Name", "Here"),
        (
            (
                one.sha256, one.kind, one.size_bytes, one.decky, one.host, one.src_ip, one.user, one.at[:19], one.name,
                "yes" if one.fetched else "no",
            )
            for one in found.artifacts
        ),
    )  # fmt: skip


def _fetch(
    sha256: Annotated[str, typer.Argument(help="The content's hash, as `artifacts list` shows it.")],
    out: Annotated[Path | None, typer.Option(help="Also write it to this new file, which must not exist.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Fetch one from the worker that keeps it, and keep it on the master. It is never executed; handle it with care."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy
    from decnet_master.swarmctl.artifact_messages import ArtifactKept  # noqa: PLC0415 -- heavy

    if not _SHA256.fullmatch(sha256):
        raise typer.BadParameter("an artifact is named by its SHA-256: 64 digits of 0-9 and a-f")
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists already", "Name a file that does not.")
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        kept = controller.ask("POST", f"/artifacts/{sha256}/fetch", ArtifactKept, total_secs=FETCH_SECS)
        if out is not None:
            _write(out, controller.download(f"/artifacts/{sha256}", sha256, kept.size_bytes))
    if as_json:
        terminal.print_json(kept.model_dump(mode="json"))
        return
    came = "was here already" if kept.host is None else f"came from {kept.host}"
    terminal.say(f"{kept.sha256}: {kept.size_bytes} bytes, {came}" + (f"; written to {out}" if out else ""))


FETCH_SECS = 660.0
"""A little longer than the controller gives a worker."""


def _write(out: Path, content: bytes) -> None:
    try:
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(content)
    except OSError as cause:
        raise ConfigError(f"Cannot write {out}: {cause.strerror}", "Name a file in a folder of yours.") from cause
