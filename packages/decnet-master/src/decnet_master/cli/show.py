"""`swarm show`: all that the master knows of one worker."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from decnet_master.cli import terminal
from decnet_master.cli.options import Json, Url, require_name
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_master.views import HostDetail


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("show")(_show)


def _show(
    name: Annotated[str, typer.Argument(help="The worker's name.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show a worker: where it is, how it stands and differs, what runs there. Nobody is asked; `swarm check` asks."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    require_name(name)
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        detail = controller.host(name)
    if as_json:
        terminal.print_json(detail.model_dump(mode="json"))
        return
    terminal.print_table(("worker", detail.host.name), _facts(detail))
    if detail.deckies:
        terminal.print_table(
            ("decky", "phase", "address", "services", "error"),
            [(row.name, row.phase, row.ip, " ".join(row.services), row.error) for row in detail.deckies],
        )


def _facts(detail: HostDetail) -> list[tuple[str, object]]:
    from decnet_master.labels import label_words  # noqa: PLC0415 -- heavy

    host = detail.host
    return [
        ("status", host.status),
        ("address", host.address),
        ("agent's port", host.agent_port),
        ("updater's port", detail.updater_port),
        ("version", host.version),
        ("enrolled", _at(host.enrolled_at)),
        ("last answered", _at(host.seen_at)),
        ("unreachable since", _at(host.unreachable_since)),
        ("certificate ends", _at(detail.certificate_ends_at)),
        ("takes", "as many deckies as any" if host.capacity is None else f"{host.capacity} deckies at most"),
        ("labels", label_words(host.labels) or None),
        ("differs", "; ".join(host.drift) or None),
        ("could not be mended", None if host.repair is None else f"{host.repair_failures} times: {host.repair}"),
        ("deckies", len(detail.deckies)),
    ]


def _at(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"
