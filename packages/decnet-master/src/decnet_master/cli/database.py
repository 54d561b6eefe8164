"""`db`: look after the database without its daemons."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from decnet_core import logs
from decnet_core.errors import ConfigError
from decnet_master.cli import terminal
from decnet_master.settings import MasterSettings


def group() -> typer.Typer:
    """Make the group of verbs."""
    app = typer.Typer(no_args_is_help=True, help="Look after the database.")
    app.command("rebuild")(_rebuild)
    app.command("retention")(_retention)
    return app


def _rebuild(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Count attackers, sessions and credentials anew, from the events that are there; interrupted, it goes on."""
    from decnet_master.store import Store  # noqa: PLC0415 -- heavy

    logs.configure("db", level="warning")

    async def rebuild() -> int:
        url = MasterSettings.load().database
        async with await Store.open(url, connections=1) as store:
            count: int = await store.derivation.rebuild()
            return count

    count = asyncio.run(rebuild())
    if as_json:
        terminal.print_json({"events": count})
    else:
        terminal.say(f"Counted {count} events anew.")


def _retention(
    days: Annotated[int | None, typer.Option(min=1, help="Keep so many days instead of retention-days.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Let go of days older than retention-days now. The ingester does it once an hour by itself when that is set."""
    from decnet_master.ingester.retention import expire  # noqa: PLC0415 -- heavy
    from decnet_master.store import Store  # noqa: PLC0415

    logs.configure("db", level="warning")
    settings = MasterSettings.load()
    kept_days = settings.retention_days if days is None else days
    if not kept_days:
        raise ConfigError("Nothing says how long events are kept", "Set retention-days, or give --days.")

    async def let_go() -> int:
        async with await Store.open(settings.database, connections=1) as store:
            return await expire(store, kept_days)

    count = asyncio.run(let_go())
    if as_json:
        terminal.print_json({"expired": count, "days": kept_days})
    else:
        terminal.say(f"{count} events are gone, those of the last {kept_days} days are kept.")
