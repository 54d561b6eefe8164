"""`apply`: make the fleet what a file declares."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decnet_core.errors import ConfigError, ExitCode
from decnet_master.cli import change, progress
from decnet_master.cli.options import Json, Url, Yes
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_master.swarmctl.fleet_messages import ApplyRequest, FleetPlan


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("apply")(_apply)


def _apply(
    file: Annotated[
        Path, typer.Argument(help="The fleet file: TOML, or INI if it is called *.ini; - for TOML from standard input.")
    ],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")] = False,
    plan: Annotated[str | None, typer.Option(help="Do it only if the plan is still the one of this id.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove deckies that the file does not declare.")] = False,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Add the deckies that a file declares and the fleet has not, and change those that differ; the rest stays.

    Asks before a decky is removed or gets other services, because what is on it is lost.
    """
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    request = _request(file, prune=prune, plan=plan)
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        planned = controller.plan_apply(request)
        if dry_run:
            change.show_plan(planned, as_json=as_json)
            return
        if not yes and (question := _question(planned)):
            typer.confirm(question, abort=True, err=True)
        with progress.shown() as told:
            reply = controller.apply(request.model_copy(update={"plan": planned.id}), told)
    if not as_json:
        change.show_notes(planned)
    change.show_reply(reply, as_json=as_json, none_is_fine=not planned.steps)


def _request(file: Path, *, prune: bool, plan: str | None) -> ApplyRequest:
    from pydantic import ValidationError  # noqa: PLC0415 -- heavy

    from decnet_master.fleet_file import FleetFileError, parse_fleet  # noqa: PLC0415 -- heavy
    from decnet_master.swarmctl.fleet_messages import ApplyRequest, GroupRequest  # noqa: PLC0415 -- heavy

    try:
        groups = parse_fleet(_content(file), str(file))
    except FleetFileError as error:
        for fault in error.faults:
            typer.echo(fault, err=True)
        raise typer.Exit(ExitCode.USAGE) from None
    try:
        return ApplyRequest(
            groups=tuple(
                GroupRequest(
                    names=group.names,
                    services=group.services,
                    hosts=group.hosts,
                    labels=dict(group.labels),
                    sometimes=group.sometimes,
                )
                for group in groups
            ),
            prune=prune,
            plan=plan,
        )
    except ValidationError:  # the file was held to the same rules: only the id can be wrong
        raise typer.BadParameter("--plan wants the id that --dry-run shows: 16 hexadecimal digits") from None


def _content(file: Path) -> bytes:
    from decnet_master.fleet_file import MAX_FILE_BYTES  # noqa: PLC0415 -- heavy

    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        with file.open("rb") as opened:
            return opened.read(MAX_FILE_BYTES + 1)
    except OSError as cause:
        raise ConfigError(f"Cannot read {file}: {cause.strerror}", "Name a fleet file that you may read.") from cause


def _question(plan: FleetPlan) -> str | None:
    removed = [step.name for step in plan.steps if step.action == "remove"]
    changed = [step.name for step in plan.steps if step.action == "change"]
    parts = [f"remove {len(removed)} deckies"] * bool(removed) + [f"make {len(changed)} anew"] * bool(changed)
    if not parts:
        return None
    first = ", ".join([*removed, *changed][:5])
    return f"{' and '.join(parts).capitalize()} ({first}{', …' if len(removed) + len(changed) > 5 else ''})?"
