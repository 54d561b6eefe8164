"""The verbs that stay: `serve`, and each of its parts alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer

from decnet_master.app import PARTS, run_serve
from decnet_master.cli import terminal
from decnet_master.cli.processes import begin, run_part


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("serve")(_serve)
    for part, text in (
        ("api", "Run the REST API and the live stream."),
        ("swarmctl", "Run the swarm controller and the enrolment endpoint."),
        ("listener", "Run the log listener."),
        ("ingester", "Run the ingester: from the journal into the database."),
    ):
        app.command(part, help=text)(_verb(part))


def _verb(part: str) -> Callable[[], None]:
    # a function, not a partial: the command line library reads annotations, which a partial has none of
    def run() -> None:
        run_part(part)

    return run


def _serve(
    api: Annotated[bool, typer.Option("--api/--no-api", help="Run the API here.")] = True,
    swarmctl: Annotated[bool, typer.Option("--swarmctl/--no-swarmctl", help="Run the controller here.")] = True,
    listener: Annotated[bool, typer.Option("--listener/--no-listener", help="Run the listener here.")] = True,
    ingester: Annotated[bool, typer.Option("--ingester/--no-ingester", help="Run the ingester here.")] = True,
    ask_passphrase: Annotated[
        bool, typer.Option("--ask-passphrase", help="Ask for the passphrase of the CA's key on the terminal.")
    ] = False,
) -> None:
    """Run the whole master. Controller, listener, ingester and API, each supervised."""
    wanted = {"api": api, "swarmctl": swarmctl, "listener": listener, "ingester": ingester}
    parts = [part for part in PARTS if wanted[part]]
    if not parts:
        raise typer.BadParameter("nothing is left to run")
    secrets = {}
    if ask_passphrase:  # for the one part that opens the CA
        secrets["swarmctl"] = {"DECNET_CA_PASSPHRASE": terminal.ask_passphrase()}
    begin("serve")
    asyncio.run(run_serve(parts, secrets))
