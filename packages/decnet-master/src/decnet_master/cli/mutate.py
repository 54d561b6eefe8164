"""`mutate`: let deckies gain or lose a service, as machines do."""

from __future__ import annotations

from typing import Annotated

import typer

from decnet_master.cli import change, progress
from decnet_master.cli.options import Json, Url, Yes, require_name
from decnet_master.settings import MasterSettings


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("mutate")(_mutate)


def _mutate(
    names: Annotated[list[str] | None, typer.Argument(help="Deckies; none means that it is drawn.")] = None,
    *,
    count: Annotated[
        int | None, typer.Option(min=1, max=100, help="So many at most: 1, or all that are named.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 63) - 1, help="Another number draws others.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Also deckies in use: what their visitors do ends.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")] = False,
    plan: Annotated[str | None, typer.Option(help="Do it only if the plan is still the one of this id.")] = None,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Give deckies a service, or take one, of those that the fleet file allows them `sometimes`.

    Asks before it does so, because a decky is made anew in its place: what is on its disk is lost. Evidence is not.
    """
    from pydantic import ValidationError  # noqa: PLC0415 -- heavy

    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy
    from decnet_master.swarmctl.fleet_messages import MAX_MUTATED, MutateRequest  # noqa: PLC0415 -- heavy

    wanted = tuple(map(require_name, names or ()))
    if len(wanted) > MAX_MUTATED:
        raise typer.BadParameter(f"At most {MAX_MUTATED} deckies mutate at a time")
    try:
        request = MutateRequest(names=wanted, count=count, seed=seed, force=force, plan=plan)
    except ValidationError:  # all else was held to the same rules: only the id can be wrong
        raise typer.BadParameter("--plan wants the id that --dry-run shows: 16 hexadecimal digits") from None
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        planned = controller.plan_mutate(request)
        if dry_run:
            change.show_plan(planned, as_json=as_json)
            return
        if not yes:
            steps = "; ".join(f"{step.name}: {' '.join(step.services)}" for step in planned.steps)
            typer.confirm(f"Make {len(planned.steps)} anew ({steps})?", abort=True, err=True)
        with progress.shown() as told:
            reply = controller.mutate(request.model_copy(update={"plan": planned.id}), told)
    change.show_reply(reply, as_json=as_json, none_is_fine=False)
