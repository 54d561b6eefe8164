"""`operator`: who may steer this master from another machine.

request, install, renew   on the operator's machine
sign                      on the master
list, revoke              on either
"""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decnet_core.errors import ConfigError, RemoteProtocolError
from decnet_core.identity import MAX_OPERATOR_LENGTH, is_host_name
from decnet_master.cli import terminal
from decnet_master.cli.options import Json, Url, Yes
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_core.pki.keystore import StoredIdentity

MAX_FILE_BYTES = 64 * 1024
"""A request is one KiB, a grant with two CAs six."""

_STDIN = Path("-")


def group() -> typer.Typer:
    """Build the group of verbs."""
    app = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Let operators steer from other machines, by certificate, and revoke them.",
    )
    app.command("request")(_request)
    app.command("sign")(_sign)
    app.command("install")(_install)
    app.command("renew")(_renew)
    app.command("list")(_list)
    app.command("revoke")(_revoke)
    return app


def _request(
    name: Annotated[str, typer.Argument(help="Your name as an operator: letters, digits, hyphens.")],
) -> None:
    """Make a key on this machine, and print the request that is signed for it on the master.

    The request is no secret; the key stays here. In one go, where you reach the master by SSH:

        decnet-master operator request NAME | ssh root@MASTER decnet-master operator sign NAME |
        decnet-master operator install
    """
    from decnet_master.cli import operator_identity  # noqa: PLC0415 -- heavy

    settings = MasterSettings.load()
    sys.stdout.write(operator_identity.request(settings, _name(name)))
    sys.stdout.flush()
    if sys.stdout.isatty():
        typer.echo(f"\nOn the master, give this to `decnet-master operator sign {name}`.", err=True)
        typer.echo("Here, give what it prints to `decnet-master operator install`.", err=True)


def _sign(
    name: Annotated[str, typer.Argument(help="Whose request it is, as you know it: what the request says is ignored.")],
    file: Annotated[Path, typer.Argument(help="The request; - for standard input.")] = _STDIN,
    as_json: Json = False,
) -> None:
    """Let an operator in, on the master: print its certificate and the CAs to trust."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    _name(name)
    csr = _content(file)
    with Controller(MasterSettings.load()) as controller:
        grant = controller.let_in(name, csr.decode("ascii", "replace"))
    if as_json:
        terminal.print_json(grant.model_dump(mode="json"))
        return
    sys.stdout.write(grant.certificate + grant.ca_pem)
    sys.stdout.flush()
    typer.echo(f"{name} may steer this master until {grant.ends_at:%Y-%m-%d %H:%M:%S} UTC.", err=True)


def _install(
    file: Annotated[Path, typer.Argument(help="What `operator sign` printed; - for standard input.")] = _STDIN,
    as_json: Json = False,
) -> None:
    """Put what the master signed into use on this machine."""
    from decnet_master.cli import operator_identity  # noqa: PLC0415 -- heavy

    _tell(operator_identity.install(MasterSettings.load(), _content(file)), as_json=as_json)


def _renew(url: Url = None, as_json: Json = False) -> None:
    """Renew your certificate now; any command does it by itself from two thirds of its life on."""
    from decnet_master.cli import operator_identity  # noqa: PLC0415 -- heavy
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    settings = MasterSettings.load(swarmctl_url=url)
    with Controller(settings, renews=False) as controller:
        stored = operator_identity.renew(settings, controller.renew_operator, forced=True)
    if stored is None:
        raise RemoteProtocolError("Nothing was renewed", "Try again.")
    _tell(stored, as_json=as_json)


def _list(url: Url = None, as_json: Json = False) -> None:
    """List the operators, also those that were revoked."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        reply = controller.operators()
    if as_json:
        terminal.print_json(reply.model_dump(mode="json"))
        return
    terminal.print_table(
        ("operator", "certificates", "the last ends", "last used", "revoked", "by"),
        [
            (one.name, one.certificates, _at(one.ends_at), _at(one.seen_at), _at(one.revoked_at), one.revoked_by)
            for one in reply.operators
        ],
    )


def _revoke(
    name: Annotated[str, typer.Argument(help="The operator's name.")],
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Refuse an operator from now on, with every certificate and key that it has; connections end within seconds."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    _name(name)
    if not yes:
        typer.confirm(f"Refuse {name} from now on, on every machine?", abort=True)
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        reply = controller.revoke_operator(name)
    if as_json:
        terminal.print_json(reply.model_dump(mode="json"))
        return
    terminal.say(f"{reply.name} is refused from now on.")


def _tell(stored: StoredIdentity, *, as_json: bool) -> None:
    name, folder = stored.identity.host, stored.files.key.parent
    if as_json:
        terminal.print_json({"name": name, "ends_at": stored.not_after.isoformat(), "folder": str(folder)})
        return
    terminal.say(f"You are the operator {name} until {stored.not_after:%Y-%m-%d %H:%M:%S} UTC ({folder}).")
    terminal.say("Commands renew it by themselves. Name the master with --url https://MASTER:8772, or swarmctl-url.")


def _at(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"


def _name(name: str) -> str:
    if not is_host_name(name) or len(name) > MAX_OPERATOR_LENGTH:
        raise typer.BadParameter(
            f"an operator's name has lower-case letters, digits and hyphens, {MAX_OPERATOR_LENGTH} at most"
        )
    return name


def _content(file: Path) -> bytes:
    try:
        if file == _STDIN:
            content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with file.open("rb") as opened:
                content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as cause:
        raise ConfigError(f"Cannot read {file}: {cause.strerror}", "Name a file that you may read.") from cause
    if not content.strip() or len(content) > MAX_FILE_BYTES:
        raise RemoteProtocolError(
            "What came in is nothing, or too much", "Give it exactly what the other command printed."
        )
    return content
