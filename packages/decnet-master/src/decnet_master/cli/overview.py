"""`status`: is everything there, at a glance.

On the master every part is asked in its own language, the database and the journal by looking into them. From elsewhere
there is the controller alone, and what it knows: itself, its database, its workers and their deckies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from decnet_core.errors import DecnetError, TrustError, Unavailable
from decnet_master.cli import terminal
from decnet_master.cli.options import Url
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_master.findings import Finding

_SHOWN = 5
"""Of what is wrong with workers."""


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("status")(_status)


def _status(
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show which parts answer. Also how much there is of everything, and whether the evidence gets through.

    With an https URL it shows what the controller of that master knows: its version, its workers and their deckies.
    """
    settings = MasterSettings.load(swarmctl_url=url)
    is_elsewhere = (settings.swarmctl_url or "").startswith("https:")
    parts = _parts_elsewhere(settings) if is_elsewhere else _parts_here(settings)
    rows = []
    advice = "Is `decnet-master serve` running?"
    for name, probe in parts.items():
        try:
            rows.append((name, True, probe()))
        except DecnetError as error:
            if is_elsewhere and isinstance(error, TrustError):
                raise  # no part of the master is unwell: this operator is not let in
            rows.append((name, False, error.message))
            advice = error.advice or advice
    if as_json:
        terminal.print_json({name: {"ok": ok, "detail": detail} for name, ok, detail in rows})
    else:
        terminal.print_table(("part", "ok", ""), [(name, terminal.yes(ok), detail) for name, ok, detail in rows])
    away = [name for name, ok, _ in rows if not ok]
    if away:
        raise Unavailable(f"Not everything is well: {', '.join(away)}", advice)


def _parts_here(settings: MasterSettings) -> dict[str, Callable[[], str]]:
    from decnet_master.cli import probes  # noqa: PLC0415 -- heavy

    parts: dict[str, Callable[[], str]] = {
        "database": lambda: asyncio.run(_database(settings)),
        "journal": lambda: asyncio.run(_journal(settings)),
        "evidence": lambda: asyncio.run(_evidence(settings)),
        "swarm": lambda: asyncio.run(_swarm(settings)),
        "controller": lambda: _controller(settings),
        "enrolment": lambda: probes.enrolment(settings),
        "listener": lambda: probes.listener(settings),
        "api": lambda: probes.api(settings),
    }
    if (address := settings.operator_address) is not None:
        parts["operators"] = lambda: probes.operators(settings, address)
    return parts


def _parts_elsewhere(settings: MasterSettings) -> dict[str, Callable[[], str]]:
    return {
        "controller": lambda: _controller(settings),
        "swarm": lambda: _swarm_elsewhere(settings),
        "deckies": lambda: _deckies_elsewhere(settings),
    }


def _swarm_elsewhere(settings: MasterSettings) -> str:
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    with Controller(settings) as controller:
        hosts = controller.hosts(["active"]).hosts
    wrong = [f"{host.name} does not answer" for host in hosts if host.unreachable_since is not None]
    wrong += [f"{host.name} cannot be made as it shall be" for host in hosts if host.repair is not None]
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise Unavailable("; ".join(wrong[:_SHOWN]) + more, "`decnet-master swarm check` says more.")
    return f"{len(hosts)} active workers, {sum(bool(host.drift) for host in hosts)} differ"


def _deckies_elsewhere(settings: MasterSettings) -> str:
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    with Controller(settings) as controller:
        deckies = controller.deckies().deckies
    return f"{sum(decky.phase == 'running' for decky in deckies)} of {len(deckies)} deckies running"


async def _database(settings: MasterSettings) -> str:
    from decnet_master.store import Store  # noqa: PLC0415 -- heavy

    async with await Store.open(settings.database, connections=1) as store:
        hosts, deckies = await store.hosts.list(), await store.fleet.current()
        running = sum(decky.known_phase == "running" for decky in deckies)
        active = sum(host.status == "active" for host in hosts)
        newest = await store.events.latest_seq()
    return f"{active} active workers, {running} of {len(deckies)} deckies running, newest event {newest}"


async def _journal(settings: MasterSettings) -> str:
    """Tell how much waits for the ingester, and refuse to call a journal well that may not grow."""
    from decnet_master.journal.quota import usage  # noqa: PLC0415 -- as below
    from decnet_master.journal.segments import read_marker, segment_numbers, segment_path  # noqa: PLC0415 -- as below
    from decnet_master.store import Store  # noqa: PLC0415 -- heavy

    folder = settings.journal_directory
    async with await Store.open(settings.database, connections=1) as store:
        stored = await store.ingest.position()
    try:
        end, used = read_marker(folder), usage(folder)
        between = [number for number in segment_numbers(folder) if stored.segment <= number < end.segment]
        waiting_bytes = sum(segment_path(folder, number).stat().st_size for number in between) + end.offset
    except OSError as cause:
        raise Unavailable(
            f"{folder} cannot be read: {cause.strerror}", "Run as the user who runs decnet-master, or as root."
        ) from cause
    waits = f"{max(0, waiting_bytes - stored.offset)} bytes wait for the ingester"
    room = f"{used.journal_bytes >> 20} of {settings.journal_quota_mib} MiB used, {used.free_bytes >> 20} MiB left"
    if folder.is_dir() and used.free_bytes < settings.journal_min_free_mib << 20:
        raise Unavailable(
            f"its disk has {used.free_bytes >> 20} MiB left and must keep {settings.journal_min_free_mib}, {waits}",
            f"Free space under {folder}; workers keep what is not acknowledged.",
        )
    if used.journal_bytes >= settings.journal_quota_mib << 20:
        raise Unavailable(f"{room}, {waits}", "See whether the ingester runs, or raise journal-quota-mib.")
    return f"{waits}, {room}"


async def _evidence(settings: MasterSettings) -> str:
    """Tell whether what workers ship gets through, and who is silent."""
    from decnet_master.findings import SWARM, look  # noqa: PLC0415 -- heavy
    from decnet_master.store import Store  # noqa: PLC0415 -- heavy

    async with await Store.open(settings.database, connections=1) as store:
        seen = await look(store, settings.dead_letter_alarm, datetime.now(UTC))
    _raise([finding for finding in seen.wrong if finding.part != SWARM])
    shippers = [worker for worker in seen.overview.workers if worker.should_ship]
    connected = sum(worker.connected for worker in shippers)
    if seen.overview.listener is None:
        return "no listener has reported yet"
    waits = seen.overview.listener.backlog_lines
    return f"{connected} of {len(shippers)} workers that should ship are connected, {waits} lines wait"


async def _swarm(settings: MasterSettings) -> str:
    """Tell which workers answer the controller, and which are as they shall be."""
    from decnet_master.findings import of_agents  # noqa: PLC0415 -- heavy
    from decnet_master.store import Store  # noqa: PLC0415 -- heavy

    async with await Store.open(settings.database, connections=1) as store:
        beats = (await store.heartbeats.list()).values()
    _raise(list(of_agents(beats)))
    answered = sum(beat.answered_at is not None for beat in beats)
    return f"{answered} of {len(beats)} workers have answered, {sum(bool(beat.drift) for beat in beats)} differ"


def _raise(wrong: Sequence[Finding]) -> None:
    if wrong:
        raise Unavailable("; ".join(finding.message for finding in wrong), wrong[0].advice)


def _controller(settings: MasterSettings) -> str:
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    with Controller(settings) as controller:
        return f"version {controller.health().version}"
