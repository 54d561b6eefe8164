"""`pki`: the certificate authority, and how to change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from decnet_master.cli import terminal
from decnet_master.cli.options import Json, Url, Yes
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_master.swarmctl.messages import PkiStatus


_SHOWN_DIGITS = 16


def group() -> typer.Typer:
    """Build the group of verbs."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show and change the certificate authority.")
    app.command("status")(_status)
    app.command("rotate")(_rotate)
    app.command("retire")(_retire)
    return app


def _status(url: Url = None, as_json: Json = False) -> None:
    """Show the CAs that are trusted, and which workers depend on which."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        _show(controller.pki(), as_json)


def _rotate(yes: Yes = False, url: Url = None, as_json: Json = False) -> None:
    """Make a new CA. Both are trusted until the old one is retired; workers change with their next renewal."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    if not yes:
        typer.confirm("Make a new CA, and let the workers change to it with their next renewals?", abort=True)
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        reply = controller.rotate()
    _show(reply, as_json)
    if not as_json:
        terminal.say("Both CAs are trusted. When every worker has changed, end it with `decnet-master pki retire`.")


def _retire(
    force: Annotated[bool, typer.Option("--force", help="Also while workers depend on the old CA.")] = False,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Trust the old CA no more. Refused while workers or join tokens depend on it."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        if not yes:
            typer.confirm(_what_breaks(controller.pki(), force=force), abort=True)
        reply = controller.retire(force=force)
    _show(reply, as_json)


def _what_breaks(status: PkiStatus, *, force: bool) -> str:
    missing = [worker.host for worker in status.workers if not worker.moved]
    if not force or not (missing or status.open_tokens or status.operators):
        return "Trust the old CA no more? Its key is deleted."
    return (
        "Trust the old CA no more? Its key is deleted. These workers are cut off, and have to be decommissioned, "
        f"enrolled and joined again: {', '.join(missing) or 'none'}. "
        f"{status.open_tokens} open join tokens become useless. "
        f"These operators have to be let in anew: {', '.join(status.operators) or 'none'}."
    )


def _show(status: PkiStatus, as_json: bool) -> None:
    if as_json:
        terminal.print_json(status.model_dump(mode="json"))
        return
    terminal.print_table(
        ("CA", "is", "key", "ends", "name"),
        [(ca.fingerprint[:_SHOWN_DIGITS], ca.role, ca.key, ca.not_after, ca.subject) for ca in status.authorities],
    )
    terminal.print_table(
        ("worker", "certificate ends", "issued by", "changed" if status.changing else "in order"),
        [
            (
                worker.host,
                worker.ends_at,
                None if worker.issuer is None else worker.issuer[:_SHOWN_DIGITS],
                terminal.yes(worker.moved),
            )
            for worker in status.workers
        ],
    )
    if status.changing and status.open_tokens:
        terminal.say(f"{status.open_tokens} open join tokens name the old CA.")
    if status.operators:
        terminal.say(f"Operators who have not changed: {', '.join(status.operators)} (`decnet-master operator renew`).")
