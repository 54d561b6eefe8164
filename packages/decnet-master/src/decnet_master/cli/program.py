"""The command line's application: the verbs in one place, and their common options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from decnet_core.program import EXIT_CODES
from decnet_master import __version__
from decnet_master.cli import (
    apply,
    artifacts,
    daemons,
    database,
    evidence,
    fleet,
    journal,
    mutate,
    operators,
    overview,
    pki,
    reset,
    setup,
    swarm,
    wheels,
)


def run() -> None:
    """Parse the arguments and run the verb.

    A usage error ends with 2 and a DecnetError comes out as it is, for `run_program`.
    """
    _application()(prog_name="decnet-master")


def _application() -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,  # a traceback with local variables would show secrets
        rich_markup_mode=None,
        help="Run and steer a DECNET deception network.",
        epilog=EXIT_CODES,
    )
    app.callback()(_common)
    for room in (setup, daemons, fleet, apply, mutate, reset, evidence, overview):
        room.add_to(app)
    app.add_typer(swarm.group(), name="swarm")
    app.add_typer(wheels.group(), name="bundle")
    app.add_typer(pki.group(), name="pki")
    app.add_typer(operators.group(), name="operator")
    app.add_typer(artifacts.group(), name="artifacts")
    app.add_typer(database.group(), name="db")
    app.add_typer(journal.group(), name="journal")
    return app


def _common(
    config: Annotated[Path | None, typer.Option(help="Read this file instead of /etc/decnet/decnet.ini.")] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"decnet-master {__version__}")
        raise typer.Exit
    if config is not None:
        os.environ["DECNET_CONFIG"] = str(config)  # children of `serve` read the same file
