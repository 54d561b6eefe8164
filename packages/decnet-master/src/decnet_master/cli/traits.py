"""`swarm label` and `swarm set`: what the operator says of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from decnet_master.cli import terminal
from decnet_master.cli.options import Json, Url, labels_in, require_name
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_master.views import HostView

_ANY = "any"


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("label")(_label)
    app.command("set")(_set)


def _label(
    name: Annotated[str, typer.Argument(help="The worker's name.")],
    labels: Annotated[list[str] | None, typer.Argument(help="Labels to give it: KEY=VALUE.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Take the label of this key away; may be repeated.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Give a worker labels, by which `deploy --label` and a fleet file choose workers. What runs there stays."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    require_name(name)
    given, away = labels_in(labels), labels_in([f"{key}=x" for key in remove or ()])
    if not given and not away:
        raise typer.BadParameter("name a label to give, as in site=hq, or --remove one")
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        _show(controller.label(name, given, tuple(away)), as_json=as_json)


def _set(
    name: Annotated[str, typer.Argument(help="The worker's name.")],
    capacity: Annotated[str, typer.Option(help="So many deckies at most; 0 for no more; `any` for as many as any.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Say how many deckies a worker takes. What runs there stays, also when it is more."""
    from decnet_core.fleet import MAX_DECKIES_PER_SHARD  # noqa: PLC0415 -- heavy
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    require_name(name)
    if capacity != _ANY and not (
        capacity.isascii() and capacity.isdecimal() and len(capacity) < 6 and int(capacity) <= MAX_DECKIES_PER_SHARD
    ):
        raise typer.BadParameter(f"a capacity is a number up to {MAX_DECKIES_PER_SHARD}, or any")
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        _show(controller.limit(name, None if capacity == _ANY else int(capacity)), as_json=as_json)


def _show(host: HostView, *, as_json: bool) -> None:
    from decnet_master.labels import label_words  # noqa: PLC0415 -- heavy

    if as_json:
        terminal.print_json(host.model_dump(mode="json"))
        return
    takes = "as many deckies as any" if host.capacity is None else f"{host.capacity} deckies at most"
    terminal.say(f"{host.name} takes {takes}; its labels: {label_words(host.labels) or 'none'}")
