"""`reset`: make deckies what they were when they were new."""

from __future__ import annotations

from typing import Annotated

import typer

from decnet_master.cli import change, progress
from decnet_master.cli.options import Json, Url, Yes, require_name
from decnet_master.settings import MasterSettings


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("reset")(_reset)


def _reset(
    names: Annotated[list[str], typer.Argument(help="Deckies.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Also those in use: what their visitors do ends.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")] = False,
    plan: Annotated[str | None, typer.Option(help="Do it only if the plan is still the one of this id.")] = None,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make deckies what they were when they were new: what visitors left on their disks is lost, evidence is not."""
    from pydantic import ValidationError  # noqa: PLC0415 -- heavy

    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy
    from decnet_master.swarmctl.fleet_messages import ResetRequest  # noqa: PLC0415 -- heavy

    wanted = tuple(map(require_name, names))
    try:
        request = ResetRequest(names=wanted, force=force, plan=plan)
    except ValidationError:  # all else was held to the same rules: only the id can be wrong
        raise typer.BadParameter("--plan wants the id that --dry-run shows: 16 hexadecimal digits") from None
    if not yes and not dry_run:
        typer.confirm(f"Reset {', '.join(wanted)}?", abort=True, err=True)
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        if dry_run:
            change.show_plan(controller.plan_reset(request), as_json=as_json)
            return
        with progress.shown() as told:
            reply = controller.reset(request, told)
    change.show_reply(reply, as_json=as_json, none_is_fine=False)
