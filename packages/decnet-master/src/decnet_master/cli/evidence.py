"""`events`: what visitors did, straight from the database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decnet_master.cli import terminal
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_master.store import Store

POLL_SECS = 0.25
PAGE = 500


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("events")(_events)


def _events(  # noqa: PLR0917 -- options
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    limit: Annotated[int, typer.Option(min=0, max=1000, help="Begin with so many of the newest.")] = 50,
    event_type: Annotated[str | None, typer.Option("--type", help="Only of this type.")] = None,
    decky: Annotated[str | None, typer.Option(help="Only of this decky.")] = None,
    src_ip: Annotated[str | None, typer.Option(help="Only from this address.")] = None,
) -> None:
    """Show the newest events, oldest of them first."""
    from decnet_master.store import Store  # noqa: PLC0415 -- heavy

    wanted = {"event_type": event_type, "decky": decky, "src_ip": src_ip}
    url = MasterSettings.load().database

    async def show() -> None:
        async with await Store.open(url, connections=1) as store:
            seq = await _newest(store, limit, wanted, as_json=as_json)
            while follow:
                seq = await _more(store, seq, wanted, as_json=as_json)
                await asyncio.sleep(POLL_SECS)

    asyncio.run(show())


async def _newest(store: Store, limit: int, wanted: dict[str, Any], *, as_json: bool) -> int:
    latest: int = await store.events.latest_seq()
    if limit:
        rows = await store.events.page(before_seq=latest + 1, limit=limit, **wanted)
        _print(list(reversed(rows)), as_json=as_json)
    return latest


async def _more(store: Store, seq: int, wanted: dict[str, Any], *, as_json: bool) -> int:
    """Print what came after `seq`; return the last one printed."""
    while rows := await store.events.page(after_seq=seq, limit=PAGE, **wanted):
        _print(rows, as_json=as_json)
        seq = rows[-1]["seq"]
    return seq


def _print(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    for row in rows:
        if as_json:
            terminal.print_json(row)
        else:
            fields = " ".join(f"{name}={value}" for name, value in row["fields"].items())
            source = row["src_ip"] or "-"
            terminal.say(
                f"{row['at']} {row['decky']} {row['service']} {row['event_type']} [{row['trust']}] {source} {fields}"
            )
