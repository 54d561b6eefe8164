"""From a batch of the journal to rows: pure, total, and the place where a worker's words are bounded.

What our own collectors write is read by `quick`; every other line by the codec, which alone says what is wrong.

A line that is no event becomes a dead letter. So do the few that a database could not hold or an index could not
take: an address that is none, a process id beyond 63 bits. Everything else is stored as the worker said it.

Where a third party's line (one without a `source` of ours) names no attacker, his address is looked for in its text.
A line's cursor is its byte position in its stream, so that such a line has an id of its own too.

What the journal lost becomes an event as well: nobody who looks at the events must think that they are complete.

What came plainly (RFC 5425) is `trust=guest` whatever it says: a syslog daemon forwards lines that anybody wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address
from itertools import accumulate
from typing import Any

from decnet_core.errors import RemoteProtocolError, TrustError
from decnet_core.events import Event, EventType, Trust, from_syslog
from decnet_core.identity import MASTER_HOST, Identity
from decnet_core.syslog.message import SyslogMessage
from decnet_core.syslog.rfc5424 import decode, source_address_of
from decnet_master.ingester.quick import quick_row
from decnet_master.journal.reader import Batch
from decnet_master.store import DeadLetter, Load, NewEvent
from decnet_master.store.records import Record
from decnet_master.store.values import micros

_LARGEST_PID = (1 << 63) - 1  # BIGINT

_ADDRESS_CHARS = 45
"""The longest textual IPv6 address (RFC 4291 §2.2, the form with an IPv4 tail). Longer ones carry a zone."""


@dataclass(slots=True)
class Sorted:
    """What lines became."""

    load: Load = field(default_factory=Load)
    letters: list[DeadLetter] = field(default_factory=list)

    def add(self, batch: Batch) -> None:
        """Sort the lines of one more batch."""
        if batch.is_lost:
            row = lost_row(batch)
            self.load.add(row.record(), row.event.fields)
            return
        try:
            worker = Identity.parse(batch.identity).host
        except TrustError as refused:  # the listener writes none such
            self.letters += [letter(batch, at, line, refused.message) for at, line in positions(batch)]
            return
        if not batch.lines:
            reason = f"The sender gave up {batch.end - batch.start} bytes of its log here"
            self.letters.append(letter(batch, batch.start, b"", reason))
        if batch.is_plain:
            for position, line in positions(batch):
                self._add_long(batch, worker, position, line)
        else:
            self._add_ours(batch, worker)

    def _add_ours(self, batch: Batch, worker: str) -> None:
        received_at = micros(batch.received_at)
        quick: list[tuple[Record, Mapping[str, str]]] = []
        starts: list[int] = []  # of the lines; few batches need them
        for number, line in enumerate(batch.lines):
            row = quick_row(line, worker, received_at)
            if row is not None:
                quick.append(row)
            else:
                self.load.add_all(quick)
                quick = []
                starts = starts or list(accumulate((len(one) + 1 for one in batch.lines), initial=batch.start))
                self._add_long(batch, worker, starts[number], line)
        self.load.add_all(quick)

    def _add_long(self, batch: Batch, worker: str, position: int, line: bytes) -> None:
        try:
            row = long_row(batch, worker, position, line)
        except RemoteProtocolError as refused:
            self.letters.append(letter(batch, position, line, refused.message))
        else:
            self.load.add(row.record(), row.event.fields)


def letter(batch: Batch, position: int, line: bytes, reason: str) -> DeadLetter:
    """Make a line a dead letter."""
    return DeadLetter(batch.identity, batch.stream, position, batch.received_at, reason, line)


def lost_row(batch: Batch) -> NewEvent:
    """Make an event of the master's own, an alarm, of what the journal lost."""
    segment, size_bytes = batch.next.segment, batch.end - batch.start
    where = f"segment {segment} from byte {batch.start} to byte {batch.end}"
    event = Event(
        at=batch.received_at,
        decky=MASTER_HOST,
        service="decnet",
        event_type=EventType.EVIDENCE_DROPPED,
        trust=Trust.SENSOR,
        source=f"master/journal/{segment}",
        cursor=str(batch.start),
        fields={"count": str(size_bytes), "reason": f"bytes of the journal, {where}, were damaged and set aside"},
        text=f"The journal's {where} was damaged: what it held is not here",
    )
    return NewEvent(event, MASTER_HOST, batch.received_at)


def positions(batch: Batch) -> Iterator[tuple[int, bytes]]:
    """Pair the lines with their byte positions in the stream."""
    position = batch.start
    # A line's LF is one byte. In a stream of frames (a plain sender's) the digits of its length and a space count.
    lines_only = sum(map(len, batch.lines)) + len(batch.lines) == batch.end - batch.start
    for line in batch.lines:
        yield position, line
        position += len(line) + 1 + (0 if lines_only else len(str(len(line))))


def alone(batch: Batch) -> Iterator[tuple[int, bytes, Batch]]:
    """Take a batch apart into batches of one line, each with its position and line."""
    for position, line in positions(batch):
        yield position, line, replace(batch, start=position, end=position + len(line) + 1, lines=(line,))


def long_row(batch: Batch, worker: str, position: int, line: bytes) -> NewEvent:
    """Read a line through the codec, whoever wrote it.

    Raises:
        RemoteProtocolError: it is no event that every database can hold.
    """
    message = decode(line)
    event = from_syslog(
        message,
        fallback_source=f"{batch.identity}/{batch.stream}",
        fallback_cursor=str(position),
        received_at=batch.received_at,
    )
    if batch.is_plain:
        event = replace(event, trust=Trust.GUEST)
    return NewEvent(_bounded(event, message), worker, batch.received_at, _more(message))


def _bounded(event: Event, message: SyslogMessage) -> Event:
    """Hold an event to what every database can store and index."""
    if event.pid is not None and event.pid > _LARGEST_PID:
        raise RemoteProtocolError("The process id is larger than any system's")
    src_ip, dst_ip = _address(event.src_ip), _address(event.dst_ip)
    if src_ip is None and "source" not in message.params:
        src_ip = source_address_of(event.text)
    if (src_ip, dst_ip) == (event.src_ip, event.dst_ip):
        return event
    return replace(event, src_ip=src_ip, dst_ip=dst_ip)


@lru_cache(maxsize=4096)  # the same attackers and deckies come again and again
def _address(text: str | None) -> str | None:
    """Check an address and give its canonical form, so that a filter finds all spellings of it."""
    if text is None:
        return None
    try:
        return str(ip_address(text if len(text) <= _ADDRESS_CHARS else ""))
    except ValueError:
        raise RemoteProtocolError("An address of an event is not an IP address") from None


def _more(message: SyslogMessage) -> dict[str, Any] | None:
    """Keep what a line says beside its flat parameters: the nested object, and other programs' structured data."""
    more: dict[str, Any] = {}
    if message.nested is not None:
        more["nested"] = message.nested
    if message.other_sd:
        more["other_sd"] = message.other_sd
    return more or None
