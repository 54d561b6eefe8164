"""`init`: make this machine a master."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from decnet_core import logs
from decnet_master.cli import terminal
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_master.installation import Installation


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("init")(_init)


def _init(
    ask_passphrase: Annotated[
        bool, typer.Option("--ask-passphrase", help="Ask for the passphrase of the CA's key on the terminal.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make this machine a master. Folders, CA, secrets, database, the first user: what is there stays.

    The first user's password is shown once. Run it again after an update, or when the master's certificate ended.
    """
    from decnet_master.installation import install  # noqa: PLC0415 -- heavy

    settings = MasterSettings.load()
    if ask_passphrase:
        new = not (settings.ca_directory / "ca.key").exists()
        settings = settings.model_copy(update={"ca_passphrase": terminal.ask_passphrase(twice=new)})
    logs.configure("init", level="warning")
    asyncio.run(install(settings, _show_json if as_json else _show))


def _show_json(done: Installation) -> None:
    from decnet_master.installation import ADMIN  # noqa: PLC0415 -- heavy

    terminal.print_json(
        {
            "pin": done.pin,
            "user": ADMIN,
            "password": done.admin_password,
            "made": [step.what for step in done.steps if step.made],
        }
    )


def _show(done: Installation) -> None:
    from decnet_master.installation import ADMIN  # noqa: PLC0415 -- heavy

    rows = [(step.what, step.where, "made" if step.made else "was there") for step in done.steps]
    terminal.print_table(("what", "where", ""), rows)
    terminal.say(f"CA pin: {done.pin}")
    if done.admin_password is not None:
        terminal.say(f"Log in as {ADMIN} with the password {done.admin_password} (it is not shown again).")
    sys.stdout.flush()
