"""`swarm`: the workers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decnet_master.cli import bootstrap as bootstrapping
from decnet_master.cli import checks, show, terminal, tokens, traits
from decnet_master.cli.bootstrap import Part
from decnet_master.cli.options import Json, Url, Yes, labels_in, require_name
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_master.views import HostView


def group() -> typer.Typer:
    """Build the group of verbs."""
    app = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Enrol, list, show, label, check and decommission workers."
    )
    app.add_typer(tokens.group(), name="tokens")
    app.command("enroll")(_enroll)
    app.command("list")(_list)
    show.add_to(app)
    traits.add_to(app)
    app.command("check")(_check)
    app.command("decommission")(_decommission)
    return app


def _enroll(
    name: Annotated[str, typer.Argument(help="The worker's name: one host label.")],
    *,
    ttl_minutes: Annotated[int | None, typer.Option(min=1, max=1440, help="How long the token may be used.")] = None,
    out_dir: Annotated[
        Path | None, typer.Option(help="Write keys and certificates into this new folder, instead of a token.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="With --out-dir: where the master reaches the worker, if that is known.")
    ] = None,
    agent_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="With --out-dir: of its agent-address, if not 8765.")
    ] = None,
    updater_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="With --out-dir: of its updater-address, if not 8766.")
    ] = None,
    bootstrap: Annotated[
        bool, typer.Option("--bootstrap", help="Print one line that makes a bare host a worker, when pasted there.")
    ] = False,
    without: Annotated[
        list[Part] | None,
        typer.Option(help="With --bootstrap: leave this part out; may be given again, or as --without-PART."),
    ] = None,
    without_logship: Annotated[bool, typer.Option("--without-logship", hidden=True)] = False,
    without_tap: Annotated[bool, typer.Option("--without-tap", hidden=True)] = False,
    without_updater: Annotated[bool, typer.Option("--without-updater", hidden=True)] = False,
    install_docker: Annotated[
        bool, typer.Option("--install-docker", help="With --bootstrap: install Debian's docker.io if need be.")
    ] = False,
    label: Annotated[
        list[str] | None, typer.Option(help="Give the worker this label, KEY=VALUE; may be repeated.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make a one-time token with which a worker joins; or, offline, a folder with its keys and certificates."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    require_name(name)
    labels = labels_in(label)
    told = {"agent_port": agent_port, "updater_port": updater_port}
    ports = {which: port for which, port in told.items() if port is not None}
    named = {Part.LOGSHIP: without_logship, Part.TAP: without_tap, Part.UPDATER: without_updater}
    without = [*(without or ()), *(part for part, is_left_out in named.items() if is_left_out)]
    if not bootstrap and (without or install_docker):
        raise typer.BadParameter("--without and --install-docker go with --bootstrap")
    if bootstrap:
        if out_dir is not None or address is not None or ports:
            raise typer.BadParameter("--out-dir, --address and ports do not go with --bootstrap")
        settings = MasterSettings.load(swarmctl_url=url)
        bootstrapping.enroll(
            settings, name, ttl_minutes, without, labels, install_docker=install_docker, as_json=as_json
        )
        return
    if out_dir is not None:
        if ttl_minutes is not None:
            raise typer.BadParameter("--ttl-minutes is for a token, and --out-dir makes none")
        settings = MasterSettings.load(swarmctl_url=url)
        _enroll_offline(settings, name, out_dir, address, ports=ports, labels=labels, as_json=as_json)
        return
    if address is not None:
        raise typer.BadParameter("--address goes with --out-dir; with a token, give it to `decnet-agent join`")
    if ports:
        raise typer.BadParameter("Ports go with --out-dir; who joins by a token tells them from its configuration")
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        reply = controller.enroll(name, ttl_minutes, labels)
    if as_json:
        terminal.print_json(reply.model_dump(mode="json"))
        return
    terminal.say(f"On {reply.host}, before {reply.expires_at:%Y-%m-%d %H:%M:%S} UTC, run")
    typer.echo(f"\n  decnet-agent join {reply.token}\n")
    terminal.say("The token works once. It can also be piped in, so that it stays out of the shell's history.")


def _enroll_offline(
    settings: MasterSettings,
    name: str,
    folder: Path,
    address: str | None,
    *,
    ports: dict[str, int],
    labels: dict[str, str],
    as_json: bool,
) -> None:
    from decnet_master.cli.bundle import write_bundle  # noqa: PLC0415 -- heavy
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    with Controller(settings) as controller:
        write_bundle(controller, name, folder, address, ports=ports, labels=labels)
    if as_json:
        terminal.print_json({"host": name, "folder": str(folder)})
        return
    terminal.say(f"Whoever has {folder} is {name}. Carry it there on a way that nobody reads, and run")
    typer.echo(f"\n  decnet-agent join --bundle {folder.name}\n")
    terminal.say("Then remove every copy: the keys are in use until the first renewal.")
    if address is None:
        terminal.say("The master learns its address with that renewal, and does not call it before.")


def _decommission(
    name: Annotated[str, typer.Argument(help="The worker's name.")],
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Refuse a worker, and every certificate that it has, from now on; its name may be enrolled again."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    require_name(name)
    if not yes:
        typer.confirm(f"Refuse {name} from now on? What its log holds and was not shipped yet stays there.", abort=True)
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        reply = controller.decommission(name)
    if as_json:
        terminal.print_json(reply.model_dump(mode="json"))
        return
    terminal.say(f"{reply.host} is refused from now on.")
    if reply.deckies:
        terminal.say(f"{reply.deckies} deckies of the fleet are placed on it: tear them down, or enrol it again.")
    terminal.say(f"It may join again: `decnet-master swarm enroll {reply.host}` makes a token.")


class _Status(StrEnum):
    ENROLLED = "enrolled"
    ACTIVE = "active"
    DECOMMISSIONED = "decommissioned"


def _list(
    status: Annotated[list[_Status] | None, typer.Option(help="Only those that are this; may be repeated.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the workers."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy
    from decnet_master.labels import label_words  # noqa: PLC0415 -- heavy

    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        reply = controller.hosts(status or ())
    if as_json:
        terminal.print_json(reply.model_dump(mode="json"))
        return
    terminal.print_table(
        ("name", "status", "address", "version", "seen", "takes", "labels"),
        [
            (
                host.name,
                _status(host),
                host.address,
                host.version,
                host.seen_at,
                host.capacity,
                label_words(host.labels) or None,
            )
            for host in reply.hosts
        ],
    )


def _status(host: HostView) -> str:
    if host.unreachable_since is None:
        return host.status
    return f"unreachable since {host.unreachable_since:%Y-%m-%d %H:%M:%S}"


def _check(url: Url = None, as_json: Json = False) -> None:
    """Ask agent, updater and log shipper of every active worker how they are."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        reply = controller.check()
    checks.show(reply, as_json=as_json)
