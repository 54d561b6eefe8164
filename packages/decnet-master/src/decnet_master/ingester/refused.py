"""Store a part of which the database refuses something: all of it but the rows that are to blame.

The database says no to a transaction, not to a row. So the part is halved, and each half tried without keeping it,
until what is refused is one row: that one becomes a dead letter, with the reason. The rest is stored in one transaction
with the position, in the pieces that were tried, as rows may also be refused for one another's sake.

A row is only to blame if the database takes another. One that refuses a row as plain as `PROBE` is what is wrong: a
trigger, a constraint that is not ours, numbers that were given already. It would make dead letters of everything, of
which few are kept; so nothing is stored, the journal keeps it, and the ingester waits as for a database that is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from decnet_core.errors import LocalProtocolError, Unavailable
from decnet_core.events import Event, EventType, Trust
from decnet_core.logs import shown
from decnet_master.ingester.lines import Sorted, alone, letter
from decnet_master.ingester.parts import Part
from decnet_master.journal.reader import Batch, Position
from decnet_master.store import DeadLetter, Load, NewEvent
from decnet_master.store.ingest import Ingest

_AT = datetime(2026, 1, 1, tzinfo=UTC)
PROBE = NewEvent(
    Event(
        at=_AT,
        decky="decnet",
        service="decnet",
        event_type=EventType.GUEST_LINE,
        trust=Trust.GUEST,
        source="master/probe",
        cursor="0",
    ),
    "decnet",
    _AT,
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a part, and its batch with no other; a hole of the stream is one without a line."""

    batch: Batch
    position: int
    line: bytes
    piece: Batch


@dataclass(slots=True)
class _Sifted:
    """What may be stored, in the order in which it came."""

    loads: list[Load] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)


async def store_without_refused(ingest: Ingest, part: Part, position: Position, reason: str) -> list[DeadLetter]:
    """Store a part that was refused as a whole.

    Args:
        ingest: where to.
        part: the lines.
        position: where the part begins.
        reason: why it was refused.

    Returns:
        the dead letters that were stored.

    Raises:
        Conflict: as `Ingest.append`.
        Unavailable, RetryLater: the database does not answer, or refuses what no row is to blame for.
    """
    if (why := await ingest.refusal(Load.of([PROBE]))) is not None:
        raise _refuses_all(why)
    sifted = _Sifted()
    await _sift(ingest, _lines_of(part), sifted)
    try:
        await ingest.append_apart(sifted.loads, sifted.letters, part.after, position)
    except LocalProtocolError:
        raise _refuses_all(reason) from None
    return sifted.letters


async def _sift(ingest: Ingest, lines: Sequence[_Line], sifted: _Sifted) -> None:
    tried = Sorted()
    for one in lines:
        tried.add(one.piece)
    reason = await ingest.refusal(tried.load) if tried.load.records else None
    if reason is None:
        sifted.loads.append(tried.load)
        sifted.letters += tried.letters
    elif len(lines) == 1:
        (one,) = lines
        log.error("row.refused", reason=reason, identity=shown(one.batch.identity), position=one.position)
        sifted.letters.append(letter(one.batch, one.position, one.line, reason))
    else:
        half = len(lines) // 2
        await _sift(ingest, lines[:half], sifted)
        await _sift(ingest, lines[half:], sifted)


def _lines_of(part: Part) -> list[_Line]:
    found: list[_Line] = []
    for batch in part.batches:
        found += [_Line(batch, position, line, piece) for position, line, piece in alone(batch)]
        if not batch.lines:
            found.append(_Line(batch, batch.start, b"", batch))
    return found


def _refuses_all(reason: str) -> Unavailable:
    return Unavailable(
        f"The database takes no rows: {reason}",
        "Look for a trigger, a constraint or rows that are not DECNET's; the journal keeps what comes meanwhile.",
    )
