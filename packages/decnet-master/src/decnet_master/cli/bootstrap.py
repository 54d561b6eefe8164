"""`swarm enroll NAME --bootstrap`: the line that makes a bare host a worker."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import typer

from decnet_master.cli import terminal
from decnet_master.settings import MasterSettings


class Part(StrEnum):
    """A part of a worker that it can do without."""

    LOGSHIP = "logship"
    TAP = "tap"
    UPDATER = "updater"


def enroll(
    settings: MasterSettings,
    name: str,
    ttl_minutes: int | None,
    without: Sequence[Part],
    labels: dict[str, str],
    *,
    install_docker: bool,
    as_json: bool,
) -> None:
    """Make a token and print the line that holds it.

    Raises:
        NotFound: this master has no wheels for workers; then no token is made.
        Conflict: the name is taken or reserved.
        Unavailable: the controller does not answer.
    """
    from decnet_core.enrolment import JoinToken  # noqa: PLC0415 -- heavy
    from decnet_master.bootstrap.line import make_line  # noqa: PLC0415 -- heavy
    from decnet_master.cli.client import Controller  # noqa: PLC0415 -- heavy

    options = [f"--without-{part}" for part in Part if part in without]
    options += ["--install-docker"] if install_docker else []
    with Controller(settings) as controller:
        offer = controller.bootstrap()
        reply = controller.enroll(name, ttl_minutes, labels)
    line = make_line(JoinToken.parse(reply.token), offer.script_sha256, options)
    if as_json:
        told = {"line": line.whole, "line_without_token": line.command, "targets": list(offer.targets)}
        terminal.print_json({**reply.model_dump(mode="json"), **told})
        return
    targets = " or ".join(offer.targets)
    terminal.say(f"On the host that shall be {reply.host} ({targets}), as root,")
    terminal.say(f"before {reply.expires_at:%Y-%m-%d %H:%M:%S} UTC, paste")
    typer.echo(f"\n{line.whole}\n")
    terminal.say(
        "It may be pasted again if it was cut off. The token in it works for one host, and once. To keep it out of"
    )
    terminal.say(
        "the shell's history, leave out all before python3, and paste the token alone when you are asked for it."
    )
