"""`swarm tokens`: the join tokens that were given out."""

from __future__ import annotations

from typing import Annotated

import typer

from decnet_master.cli import terminal
from decnet_master.cli.options import Json, Url
from decnet_master.settings import MasterSettings


def group() -> typer.Typer:
    """Build the group of verbs."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List and revoke join tokens.")
    app.command("list")(_list)
    app.command("revoke")(_revoke)
    return app


def _list(url: Url = None, as_json: Json = False) -> None:
    """List the join tokens. Their secrets are not kept, so they are not shown."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        reply = controller.tokens()
    if as_json:
        terminal.print_json(reply.model_dump(mode="json"))
        return
    terminal.print_table(
        ("id", "worker", "state", "made", "ends"),
        [(token.id, token.host, token.state, token.created_at, token.expires_at) for token in reply.tokens],
    )


def _revoke(
    token: Annotated[str, typer.Argument(help="The token's id, as `swarm tokens list` shows it.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Refuse a join token from now on; its worker's name may be enrolled again."""
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    if len(token) != 16 or not set(token) <= set("0123456789abcdef"):
        raise typer.BadParameter("a token's id has 16 hexadecimal digits")
    with Controller(MasterSettings.load(swarmctl_url=url)) as controller:
        reply = controller.revoke_token(token)
    if as_json:
        terminal.print_json(reply.model_dump(mode="json"))
        return
    terminal.say(f"The join token {reply.id} of {reply.host} is {reply.state}.")
