"""`deploy`, `teardown` and `deckies`: the fleet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from decnet_core.identity import is_host_name
from decnet_master.cli import terminal
from decnet_master.cli.outcome import judge
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_master.swarmctl.messages import FleetReply
    from decnet_master.views import DeckyView

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("deploy")(_deploy)
    app.command("teardown")(_teardown)
    app.command("deckies")(_deckies)


def _deploy(
    count: Annotated[int, typer.Option(min=0, help="Deckies to add; 0 sends again what is not as it should be.")] = 1,
    service: Annotated[list[str] | None, typer.Option(help="Service of each; may be repeated.")] = None,
    host: Annotated[list[str] | None, typer.Option(help="Only on this worker; may be repeated.")] = None,
    name_prefix: Annotated[str | None, typer.Option(help="Name them PREFIX-01, PREFIX-02, …")] = None,
    as_json: Json = False,
) -> None:
    """Add deckies to the fleet."""
    from pydantic import ValidationError  # noqa: PLC0415 -- heavy

    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy
    from decnet_master.swarmctl.messages import DeployRequest  # noqa: PLC0415 -- heavy

    try:
        request = DeployRequest(
            count=count, services=tuple(service or ("ssh",)), hosts=tuple(host or ()), name_prefix=name_prefix
        )
    except ValidationError as cause:
        raise typer.BadParameter(
            "; ".join(f"{error['loc'][0]}: {error['msg']}" for error in cause.errors(include_input=False))
        ) from None
    with Controller(MasterSettings.load()) as controller:
        reply = controller.deploy(request)
    _show(reply, as_json=as_json, none_is_fine=count == 0)


def _teardown(
    names: Annotated[list[str] | None, typer.Argument(help="Deckies; none means all of them.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove deckies from the fleet."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    wanted = tuple(names or ())
    if not all(is_host_name(name) for name in wanted):
        raise typer.BadParameter("a decky's name is one lower-case host label")
    if not yes:
        typer.confirm(f"Tear down {'the whole fleet' if not wanted else ', '.join(wanted)}?", abort=True)
    with Controller(MasterSettings.load()) as controller:
        reply = controller.teardown(wanted)
    _show(reply, as_json=as_json, none_is_fine=False)


def _deckies(as_json: Json = False) -> None:
    """List the deckies: what they are and where they run."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    with Controller(MasterSettings.load()) as controller:
        reply = controller.deckies()
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
    if decky.unreachable_since is not None:
        return f"its worker does not answer since {decky.unreachable_since:%Y-%m-%d %H:%M:%S}"
    if decky.error is not None:
        return decky.error
    if decky.contested_by is not None:
        return f"another machine, {decky.contested_by}, has its address too"
    return None if decky.moved_from is None else f"not {decky.moved_from}: {decky.moved_because}"


def _logins(decky: DeckyView) -> str:
    return _words([f"{account.user}:{account.password}" for account in decky.accounts])


def _show(reply: FleetReply, *, as_json: bool, none_is_fine: bool) -> None:
    if as_json:
        terminal.print_json(reply.model_dump(mode="json"))
    else:
        changed = [("added", name) for name in reply.added] + [("removed", name) for name in reply.removed]
        terminal.say(f"Generation {reply.generation}")
        if changed:
            terminal.print_table(("", "decky"), changed)
        terminal.print_table(
            ("worker", "ok", "deckies"),
            [
                (row.host, terminal.yes(row.ok), len(row.report.deckies) if row.report else None)
                for row in reply.results
            ],
        )
        for row in reply.results:
            if not row.ok:
                terminal.say_failure(row.host, row.error, row.advice)
    judge([(row.host, row.ok) for row in reply.results], "are as they should be", none_is_fine=none_is_fine)
