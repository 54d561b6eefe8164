"""`deploy`, `teardown` and `deckies`: the fleet."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from decnet_master.cli import change, progress, terminal
from decnet_master.cli.options import Json, Url, Yes, labels_in, require_name
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_master.views import DeckyView


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("deploy")(_deploy)
    app.command("teardown")(_teardown)
    app.command("deckies")(_deckies)


def _deploy(
    count: Annotated[int, typer.Option(min=0, help="Deckies to add; 0 sends again what is not as it should be.")] = 1,
    *,
    service: Annotated[list[str] | None, typer.Option(help="Service of each; may be repeated.")] = None,
    host: Annotated[list[str] | None, typer.Option(help="Only on this worker; may be repeated.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only on workers with this label, KEY=VALUE; with all of them if repeated.")
    ] = None,
    name_prefix: Annotated[str | None, typer.Option(help="Name them PREFIX-01, PREFIX-02, …")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")] = False,
    plan: Annotated[str | None, typer.Option(help="Do it only if the plan is still the one of this id.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Add deckies to the fleet."""
    from pydantic import ValidationError  # noqa: PLC0415 -- heavy

    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy
    from decnet_master.swarmctl.messages import DeployRequest  # noqa: PLC0415 -- heavy

    try:
        request = DeployRequest(
            count=count,
            services=tuple(service or ("ssh",)),
            hosts=tuple(host or ()),
            labels=labels_in(label),
            name_prefix=name_prefix,
            plan=plan,
        )
    except ValidationError as cause:
        raise typer.BadParameter(
            "; ".join(f"{error['loc'][0]}: {error['msg']}" for error in cause.errors(include_input=False))
        ) from None
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        if dry_run:
            change.show_plan(controller.plan_deploy(request), as_json=as_json)
            return
        with progress.shown() as told:
            reply = controller.deploy(request, told)
    change.show_reply(reply, as_json=as_json, none_is_fine=count == 0)


def _teardown(
    names: Annotated[list[str] | None, typer.Argument(help="Deckies; none means all of them.")] = None,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Remove deckies from the fleet."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    wanted = tuple(map(require_name, names or ()))
    if not yes:
        typer.confirm(f"Tear down {'the whole fleet' if not wanted else ', '.join(wanted)}?", abort=True)
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller, progress.shown() as told:
        reply = controller.teardown(wanted, told)
    change.show_reply(reply, as_json=as_json, none_is_fine=False)


class _State(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    UNKNOWN = "unknown"


def _deckies(
    host: Annotated[list[str] | None, typer.Option(help="Only those of this worker; may be repeated.")] = None,
    state: Annotated[
        list[_State] | None,
        typer.Option(help="Only those in this state; unknown until reported, and once their worker is no more."),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the deckies: what they are and where they run."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    hosts = list(map(require_name, host or ()))
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        reply = controller.deckies(hosts, state or ())
    if as_json:
        terminal.print_json(reply.model_dump(mode="json"))
        return
    terminal.print_table(
        ("decky", "worker", "phase", "address", "MAC", "services", "accounts", "remark"),
        [
            (row.name, row.host, row.phase, row.ip, row.mac, _words(row.services), _logins(row), _remark(row))
            for row in reply.deckies
        ],
    )


def _words(words: Sequence[str]) -> str:
    return " ".join(words)


def _remark(decky: DeckyView) -> str | None:
    if decky.host_status == "decommissioned":
        return "its worker was decommissioned: nobody knows what runs there"
    if decky.unreachable_since is not None:
        return f"its worker does not answer since {decky.unreachable_since:%Y-%m-%d %H:%M:%S}"
    if decky.error is not None:
        return decky.error
    if decky.contested_by is not None:
        return f"another machine, {decky.contested_by}, has its address too"
    if decky.moved_from is not None:
        return f"not {decky.moved_from}: {decky.moved_because}"
    return None if decky.mutated_at is None else f"mutated {decky.mutated_at:%Y-%m-%d %H:%M:%S}"


def _logins(decky: DeckyView) -> str:
    return _words([f"{account.user}:{account.password}" for account in decky.accounts])
