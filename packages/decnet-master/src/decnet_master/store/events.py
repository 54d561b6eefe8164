"""The events that deckies' visitors caused, in the order in which they were stored.

`seq` is that order and the key that pages go by: a page continues after (or before) the last `seq` that the caller
saw. New rows never appear behind a reader, see `store.schema`.

Rows come out as dictionaries that `json.dumps` takes. Two warnings for whoever shows them: every text in them may
have been written by an attacker; and it may hold lone surrogates (bytes that were no UTF-8), which only JSON with
ASCII escapes (`ensure_ascii`, the default) can carry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_core.events import Event
from decnet_master.store.engine import Database
from decnet_master.store.schema import events
from decnet_master.store.values import iso, json_object, json_text, micros, original, storable

LARGEST_PAGE = 1000
"""Rows a page, at most: each can be as large as the largest line, and the caller holds them all."""


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


class Events:
    """The room of the events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        *,
        after_seq: int = 0,
        before_seq: int | None = None,
        limit: int = 100,
        event_type: str | None = None,
        decky: str | None = None,
        src_ip: str | None = None,
    ) -> list[dict[str, Any]]:
        """Read one page.

        Args:
            after_seq: only rows stored after this one.
            before_seq: only rows stored before this one; when given, the page runs from the newest to the oldest,
                else from the oldest to the newest.
            limit: rows, at most `LARGEST_PAGE`.
            event_type, decky, src_ip: exact filters.

        Returns:
            dictionaries with seq, id, at and received_at (RFC 3339 in UTC), worker, decky, service, event_type,
            trust, src_ip, src_port, dst_ip, dst_port, session, pid, fields (object), text, source, cursor.
        """
        query = select(events).where(events.c.seq > after_seq).limit(max(1, min(limit, LARGEST_PAGE)))
        if before_seq is None:
            query = query.order_by(events.c.seq)
        else:
            query = query.where(events.c.seq < before_seq).order_by(events.c.seq.desc())
        query = _filtered(query, event_type=event_type, decky=decky, src_ip=src_ip)
        async with self._database.read() as connection:
            return [_document(row) for row in await connection.execute(query)]

    async def latest_seq(self) -> int:
        """Tell the newest row's seq; 0 when there is none."""
        async with self._database.read() as connection:
            return (await connection.execute(select(func.max(events.c.seq)))).scalar() or 0


async def insert_events(connection: AsyncConnection, rows: Sequence[NewEvent], *, copy: bool) -> None:
    """Add rows in their order, inside the caller's transaction.

    Args:
        connection: has executed a statement in its transaction already.
        rows: any number.
        copy: whether the driver is asyncpg, whose COPY is several times as fast as INSERT; else it is SQLite's.
    """
    if not rows:
        return
    records = [_record(row) for row in rows]
    if copy:
        raw = (await connection.get_raw_connection()).driver_connection
        # The adapter begins its transaction with the first statement; COPY on the raw connection takes part in it.
        await raw.copy_records_to_table(  # type: ignore[union-attr]  # asyncpg's Connection
            events.name, columns=_COLUMNS, records=records
        )
    else:
        await connection.exec_driver_sql(_INSERT, records)


def _filtered(query: Select[Any], **filters: str | None) -> Select[Any]:
    for name, wanted in filters.items():
        if wanted is not None:
            query = query.where(events.c[name] == storable(wanted))
    return query


_COLUMNS = tuple(column.name for column in events.columns if column.name != "seq")

# Written out, because SQLAlchemy's own INSERT binds parameters row by row: a fifth of all the time that a row costs.
_INSERT = f"INSERT INTO events ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608


def _record(row: NewEvent) -> tuple[object, ...]:
    """Write a row's values in the order of `_COLUMNS`."""
    event = row.event
    return (
        event.id,
        micros(event.at),
        micros(row.received_at),
        row.worker,
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
        json_text({**event.fields, **row.more} if row.more else dict(event.fields)),
        storable(event.text),
        storable(event.source),
        storable(event.cursor),
    )


def _document(row: Row[Any]) -> dict[str, Any]:
    document = dict(row._mapping)  # noqa: SLF001 -- SQLAlchemy's public name for it
    for name in ("decky", "service", "event_type", "src_ip", "dst_ip", "session", "text", "source", "cursor"):
        if document[name] is not None:
            document[name] = original(document[name])
    document["at"], document["received_at"] = iso(row.at), iso(row.received_at)
    document["fields"] = json_object(row.fields)
    return document


def _storable_or_none(text: str | None) -> str | None:
    return None if text is None else storable(text)
