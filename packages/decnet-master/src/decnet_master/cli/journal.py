"""`journal`: what lies between the listener and the database. `status` and `verify` read only, while everything runs.

Exit codes of `verify`: 0 whole, 1 damaged, 4 there is no journal, 69 it cannot be read.

Exit codes of `set-aside`: 0 what was damaged is set aside, or nothing was; 1 not confirmed, or it cannot be found out
how far the senders are; 4 there is no journal; 5 the listener runs; 69 the journal cannot be read or written, or the
database does not answer; 75 the database is away for a while.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decnet_core.errors import DecnetError, Unavailable
from decnet_master.cli import terminal
from decnet_master.settings import MasterSettings

if TYPE_CHECKING:
    from decnet_master.journal.segments import Position
    from decnet_master.journal.set_aside import Stretch

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

SHOWN_FAULTS = 50


def group() -> typer.Typer:
    """Build the group of verbs."""
    app = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Look at the journal of shipped lines, and mend it."
    )
    app.command("status")(_status)
    app.command("verify")(_verify)
    app.command("set-aside")(_set_aside)
    return app


def _status(as_json: Json = False) -> None:
    """Show what the journal holds, what waits for the ingester, and how much room there is."""
    from decnet_master.journal.inspection import inspect  # noqa: PLC0415 -- `--version` stays fast
    from decnet_master.journal.segments import Position  # noqa: PLC0415

    settings = MasterSettings.load()
    folder = settings.journal_directory
    position, why_unknown = None, None
    try:
        position = Position(*asyncio.run(_position(settings)))
    except DecnetError as error:  # the journal can be looked at without the database
        why_unknown = error
    try:
        seen = inspect(folder, position)
    except OSError as cause:
        raise _unreadable(folder, cause) from cause
    used, quota_bytes = seen.usage, settings.journal_quota_mib << 20
    min_free_bytes = settings.journal_min_free_mib << 20
    document = {
        "folder": str(folder),
        "segments": seen.segments,
        "bytes": used.journal_bytes,
        "oldest": {"segment": seen.oldest_segment, "received_at": seen.oldest_at and seen.oldest_at.isoformat()},
        "newest": {"segment": seen.newest_segment, "received_at": seen.newest_at and seen.newest_at.isoformat()},
        "end": asdict(seen.end),
        "ingested": None if position is None else asdict(position),
        "backlog": None if seen.waiting is None else asdict(seen.waiting),
        "quota_bytes": quota_bytes,
        "quota_used": round(used.journal_bytes / quota_bytes, 4),
        "free_bytes": used.free_bytes,
        "min_free_bytes": min_free_bytes,
        "streams": [
            {"identity": identity, "stream": stream, "durable_offset": offset}
            for (identity, stream), offset in seen.streams.items()
        ],
    }
    if as_json:
        terminal.print_json(document)
        return
    waits = "not known" if seen.waiting is None else f"{seen.waiting.lines} lines, {seen.waiting.bytes} bytes"
    rows = [
        ("segments", f"{seen.segments}, {seen.oldest_segment} to {seen.newest_segment}"),
        ("received", f"{_moment(seen.oldest_at)} to {_moment(seen.newest_at)}"),
        ("holds", f"{used.journal_bytes >> 20} of {quota_bytes >> 20} MiB"),
        ("disk", f"{used.free_bytes >> 20} MiB free, {min_free_bytes >> 20} must stay"),
        ("waits for the ingester", waits),
    ]
    terminal.print_table(("journal", ""), rows)
    terminal.print_table(
        ("sender", "stream", "durable up to byte"),
        [(identity, stream, offset) for (identity, stream), offset in seen.streams.items()],
    )
    if why_unknown is not None:
        terminal.say_failure("how far the ingester is", why_unknown.message, why_unknown.advice)


def _verify(as_json: Json = False) -> None:
    """Check every record of the journal, and that each stream goes on where it was; ends with 1 when it is damaged."""
    from decnet_master.journal.verification import verify  # noqa: PLC0415 -- `--version` stays fast

    folder = MasterSettings.load().journal_directory
    try:
        found = verify(folder)
    except OSError as cause:
        raise _unreadable(folder, cause) from cause
    if as_json:
        terminal.print_json({"folder": str(folder), "ok": not found.faults, **asdict(found)})
    else:
        terminal.say(f"{found.segments} segments, {found.records} records, {found.lines} lines, {found.bytes} bytes")
        if found.faults:
            rows = [(fault.segment, fault.offset, fault.what) for fault in found.faults[:SHOWN_FAULTS]]
            terminal.print_table(("segment", "byte", "what is wrong"), rows)
    if found.faults:
        first = found.faults[0]
        raise DecnetError(
            f"The journal is damaged in {len(found.faults)} places, first in segment {first.segment} "
            f"near byte {first.offset}",
            "Keep a copy of the folder and look at the disk; restore what is damaged from a backup.",
        )


def _set_aside(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Set damaged segments aside, so that the rest goes on; the events say what is missing. Stop the listener first."""
    from decnet_master.journal.set_aside import FOLDER, find_damage, set_aside  # noqa: PLC0415 -- `--version` stays fast
    from decnet_master.journal.writer import locked  # noqa: PLC0415

    settings = MasterSettings.load()
    folder = settings.journal_directory
    position, reported = asyncio.run(_what_is_stored(settings))
    try:
        with locked(folder):
            found = find_damage(folder, position)
            if found and not yes:
                if not as_json:
                    _print_damage(found)
                typer.confirm(f"Set it aside in {folder / FOLDER}? Nothing is deleted.", abort=True, err=as_json)
            found = set_aside(folder, position, reported, datetime.now(UTC))
    except OSError as cause:
        raise _unreadable(folder, cause) from cause
    missing_bytes = sum(stretch.end - stretch.start for stretch in found if not stretch.is_stored)
    if as_json:
        stretches = [asdict(stretch) for stretch in found]
        terminal.print_json({"folder": str(folder / FOLDER), "set_aside": stretches, "missing_bytes": missing_bytes})
    elif not found:
        terminal.say("Nothing is damaged.")
    else:
        if yes:
            _print_damage(found)
        terminal.say(
            f"It is set aside in {folder / FOLDER}. {missing_bytes} bytes were not stored yet and are missing:"
        )
        terminal.say("the ingester stores an event `evidence.dropped` for them. Start the listener and the ingester.")


def _print_damage(found: list[Stretch]) -> None:
    rows = [(one.segment, one.start, one.end, "yes" if one.is_stored else "NO") for one in found[:SHOWN_FAULTS]]
    terminal.print_table(("segment", "damaged from byte", "to byte", "stored before"), rows)


async def _what_is_stored(settings: MasterSettings) -> tuple[Position, dict[tuple[str, str], int]]:
    from decnet_core.identity import Identity, Role  # noqa: PLC0415 -- as above
    from decnet_master.journal.segments import Position  # noqa: PLC0415
    from decnet_master.store.doorbook import DoorBook  # noqa: PLC0415

    async with await DoorBook.open(settings.database) as book:
        offsets = await book.durable_offsets()
        reported = {(str(Identity(Role.LOGSHIP, host)), stream): offset for (host, stream), offset in offsets.items()}
        return Position(*await book.position()), reported


async def _position(settings: MasterSettings) -> tuple[int, int]:
    from decnet_master.store.doorbook import DoorBook  # noqa: PLC0415 -- as above

    async with await DoorBook.open(settings.database) as book:
        return await book.position()


def _moment(at: object) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"


def _unreadable(folder: Path, cause: OSError) -> Unavailable:
    return Unavailable(
        f"{folder} cannot be read: {cause.strerror}", "Run as the user who runs decnet-master, or as root."
    )
