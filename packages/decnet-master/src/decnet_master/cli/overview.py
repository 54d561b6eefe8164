"""`status`: is everything there, at a glance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import typer

from decnet_core.errors import DecnetError, Unavailable
from decnet_master.cli import terminal
from decnet_master.settings import MasterSettings


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("status")(_status)


def _status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show which of the master's parts answer, and how much there is of everything."""
    from decnet_master.cli import probes  # noqa: PLC0415 -- heavy

    settings = MasterSettings.load()
    parts: dict[str, Callable[[], str]] = {
        "database": lambda: asyncio.run(_database(settings)),
        "controller": lambda: _controller(settings),
        "enrolment": lambda: probes.enrolment(settings),
        "listener": lambda: probes.listener(settings),
        "api": lambda: probes.api(settings),
    }
    rows = []
    for name, probe in parts.items():
        try:
            rows.append((name, True, probe()))
        except DecnetError as error:
            rows.append((name, False, error.message))
    if as_json:
        terminal.print_json({name: {"ok": ok, "detail": detail} for name, ok, detail in rows})
    else:
        terminal.print_table(("part", "ok", ""), [(name, terminal.yes(ok), detail) for name, ok, detail in rows])
    away = [name for name, ok, _ in rows if not ok]
    if away:
        raise Unavailable(f"Not everything answers: {', '.join(away)}", "Is `decnet-master serve` running?")


async def _database(settings: MasterSettings) -> str:
    from decnet_master.store import Store  # noqa: PLC0415 -- heavy

    async with await Store.open(settings.database, connections=1) as store:
        hosts, deckies = await store.hosts.list(), await store.fleet.current()
        running = sum(decky.phase == "running" for decky in deckies)
        active = sum(host.status == "active" for host in hosts)
        newest = await store.events.latest_seq()
    return f"{active} active workers, {running} of {len(deckies)} deckies running, newest event {newest}"


def _controller(settings: MasterSettings) -> str:
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    with Controller(settings) as controller:
        return f"version {controller.health().version}"
