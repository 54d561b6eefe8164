"""A row of `events` on its way into the database, and a load of them: what one transaction of the ingester stores.

A record is a plain tuple of storable values in the order of `COLUMNS` (all of the table but `seq`, which the
transaction gives). Tens of thousands are made a second, so nothing stands around them.

This module does no IO.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from decnet_core.events import Event
from decnet_master.store.schema import events
from decnet_master.store.tally import Tally
from decnet_master.store.values import json_text, micros, storable

COLUMNS = tuple(column.name for column in events.columns if column.name != "seq")

Record = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to store.

    Attributes:
        event: as its sensor made it. Its decky, source and address are what the worker says.
        worker: host name from the worker's verified certificate: provenance, never taken from the event.
        received_at: when the master had it, aware UTC.
        more: what the line said beside the event's flat fields (nested metadata, other structured data).
    """

    event: Event
    worker: str
    received_at: datetime
    more: Mapping[str, Any] | None = None

    def record(self) -> Record:
        """Write it as a row."""
        event = self.event
        return (
            event.id,
            micros(event.at),
            micros(self.received_at),
            self.worker,
            storable(event.decky),
            storable(event.service),
            storable(event.event_type),
            event.trust.value,
            _storable_or_none(event.src_ip),
            event.src_port,
            _storable_or_none(event.dst_ip),
            event.dst_port,
            _storable_or_none(event.session),
            event.pid,
            json_text({**event.fields, **self.more} if self.more else dict(event.fields)),
            storable(event.text),
            storable(event.source),
            storable(event.cursor),
        )


@dataclass(slots=True)
class Load:
    """Records in their order, and what they add to attackers, sessions and credentials."""

    records: list[Record] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def of(cls, rows: Iterable[NewEvent]) -> Self:
        """Make a load of events."""
        load = cls()
        for row in rows:
            load.add(row.record(), row.event.fields)
        return load

    def add(self, record: Record, fields: Mapping[str, str]) -> None:
        """Add one more record, with the event's own fields."""
        self.add_all([(record, fields)])

    def add_all(self, rows: Sequence[tuple[Record, Mapping[str, str]]]) -> None:
        """Add records in their order, each with its event's own fields."""
        self.records += [record for record, _ in rows]
        self.tally.add_all(rows)


def _storable_or_none(text: str | None) -> str | None:
    return None if text is None else storable(text)
