"""Show what came of asking the workers how they are: a row for each, and beneath it what is wrong with whom."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from decnet_master.cli import terminal
from decnet_master.cli.outcome import judge

if TYPE_CHECKING:
    from decnet_master.swarmctl.messages import CheckReply, HostCheck

_COLUMNS = (
    "worker", "ok", "agent", "updater", "log", "certificate ends", "generation", "deckies", "engine", "taps", "guard",
    "drift",
)  # fmt: skip

SHOWN = 5
"""Differences of one worker; all of them are in the JSON."""


def show(reply: CheckReply, *, as_json: bool) -> None:
    """Print it all.

    Raises:
        PartialFailure: some workers are not well.
        DecnetError: none is, or there is none.
    """
    if as_json:
        terminal.print_json(reply.model_dump(mode="json"))
    else:
        terminal.print_table(_COLUMNS, [_row(row) for row in reply.results])
        for row in reply.results:
            _say(row)
    judge([(row.host, row.well) for row in reply.results], "are well")


def _row(row: HostCheck) -> tuple[object, ...]:
    return (
        row.host,
        terminal.yes(row.well),
        row.version if row.ok else "away",
        row.updater_version if row.updater_ok is not False else "away",
        row.log.value,
        row.certificate_ends_at and f"{row.certificate_ends_at:%Y-%m-%d %H:%M}",
        _generation(row),
        row.deckies,
        row.engine,
        row.taps,
        row.containment,
        len(row.drift) or None,
    )


def _generation(row: HostCheck) -> str | None:
    if row.generation is None:
        return None
    behind = row.wanted_generation is not None and row.generation < row.wanted_generation
    return f"{row.generation} of {row.wanted_generation}" if behind else str(row.generation)


def _say(row: HostCheck) -> None:
    if not row.ok:
        terminal.say_failure(row.host, row.error, row.advice)
    if row.updater_ok is False:
        terminal.say_failure(row.host, row.updater_error, "Run `systemctl status decnet-updater` there.")
    if row.silent_since is not None:
        said = f"nothing comes from its log since {_at(row.silent_since)} UTC"
        terminal.say_failure(row.host, said, "Run `decnet-logship status` there.")
    if row.drift:
        more = f"; and {len(row.drift) - SHOWN} more" if len(row.drift) > SHOWN else ""
        terminal.say_failure(row.host, "; ".join(row.drift[:SHOWN]) + more, _what_is_done(row))


def _what_is_done(row: HostCheck) -> str:
    if row.repair is None:
        return "It is mended by itself."
    return f"Mending failed {row.repair_failures} times: {row.repair}. It is tried again."


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
