"""From a line to an event and to a row: whatever a line says, who sent it and where it came from is not its to say."""

from __future__ import annotations

from datetime import UTC, datetime

from decnet_core.errors import LocalProtocolError, RemoteProtocolError
from decnet_core.events import Event, Trust, from_syslog, to_syslog
from decnet_core.syslog.rfc5424 import decode, encode
from decnet_master.ingester import lines
from decnet_master.ingester.lines import Sorted
from decnet_master.ingester.quick import quick_row
from decnet_master.journal.reader import START, Batch
from decnet_master.store.values import micros
from tests.fuzz.target import Target, hold
from tests.fuzz.targets.syslog import LINES, TOKENS

_AT = datetime(2026, 11, 23, 16, tzinfo=UTC)


def event(data: bytes) -> None:
    """A line that is an event comes back as the same event."""
    try:
        message = decode(data)
        read = _event_of(data)
    except RemoteProtocolError:
        return
    hold(read.decky == message.host and read.trust in Trust, "an event's decky or trust came from somewhere else")
    try:
        line = encode(to_syslog(read))
    except LocalProtocolError:  # a type or a field that our own emitters may not write
        return
    again = _event_of(line)
    hold(again == read and again.id == read.id, "an event comes back as another")


def row(data: bytes) -> None:
    """A line becomes one row or one dead letter, its worker the certificate's, and the same row by either reader."""
    batch = Batch("logship@w1", "s" * 32, 100, 101 + len(data), _AT, (data,), START)
    done = Sorted()
    done.add(batch)
    records, letters = done.load.records, done.letters
    hold(len(records) + len(letters) == 1, "one line became none or several")
    hold(all(record[3] == "w1" for record in records), "a line chose its worker")
    hold(all(one.identity == "logship@w1" and one.raw == data for one in letters), "a dead letter lost its line")
    quick = quick_row(data, "w1", micros(_AT))
    if quick is not None:
        slow = lines.long_row(batch, "w1", 100, data)
        hold(quick[0] == slow.record(), "the quick reader makes another row")
        hold(not quick[1] or quick[1] == slow.event.fields, "the quick reader tells other fields")
    for record in records:
        for value in record:
            if isinstance(value, str):
                value.encode("utf-8")
                hold("\0" not in value, "a row holds what no database takes")


def _event_of(line: bytes) -> Event:
    return from_syslog(decode(line), fallback_source="w1/s", fallback_cursor="7", received_at=_AT)


TARGETS = (Target("event", event, LINES, TOKENS, 20), Target("row", row, LINES, TOKENS, 10))
