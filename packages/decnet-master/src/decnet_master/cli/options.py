"""Options that many verbs have, and what their words mean."""

from __future__ import annotations

from typing import Annotated

import typer

from decnet_core.errors import ConfigError
from decnet_core.identity import is_host_name

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="The controller's URL: https://MASTER:8772 with an operator's certificate, or http on this machine's "
        "loopback; also DECNET_SWARMCTL_URL or swarmctl-url.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def require_name(name: str) -> str:
    """Hand on a worker's or a decky's name.

    Raises:
        BadParameter: it is none.
    """
    if not is_host_name(name):
        raise typer.BadParameter("a name is one lower-case host label: letters, digits, hyphens, 63 at most")
    return name


def labels_in(words: list[str] | None) -> dict[str, str]:
    """Read `key=value` words.

    Raises:
        BadParameter: one is no label.
    """
    from decnet_master.labels import parse_labels  # noqa: PLC0415 -- heavy

    try:
        return parse_labels(words or ())
    except ConfigError as error:
        raise typer.BadParameter(f"{error.message}. {error.advice}") from None
