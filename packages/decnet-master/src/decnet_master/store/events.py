"""The events that deckies' visitors caused, in the order in which they were stored.

`seq` is that order and the key that pages go by: a page continues after (or before) the last `seq` that the caller
saw. New rows never appear behind a reader, see `store.schema`.

Rows come out as dictionaries that `json.dumps` takes. Two warnings for whoever shows them: every text in them may
have been written by an attacker; and it may hold lone surrogates (bytes that were no UTF-8), which only JSON with
ASCII escapes (`ensure_ascii`, the default) can carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_master.store.bulk import insert_rows, raw_connection
from decnet_master.store.engine import Database
from decnet_master.store.records import COLUMNS, Record
from decnet_master.store.schema import events, ingest_position
from decnet_master.store.values import iso, json_object, original, storable

LARGEST_PAGE = 1000
"""Rows a page, at most: each can be as large as the largest line, and the caller holds them all."""


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
            return [document_of(row) for row in await connection.execute(query)]

    async def latest_seq(self) -> int:
        """Tell the newest row's seq; 0 when there never was one."""
        async with self._database.read() as connection:
            return (await connection.execute(select(ingest_position.c.last_seq))).scalar() or 0


async def insert_events(
    connection: AsyncConnection, records: Sequence[Record], first_seq: int, *, sqlite: bool
) -> None:
    """Add rows in their order, inside the caller's transaction.

    Args:
        connection: has executed a statement in its transaction already.
        records: any number.
        first_seq: what the first one is numbered.
        sqlite: which engine it is.
    """
    rows = [(seq, *record) for seq, record in enumerate(records, first_seq)]
    if sqlite:
        await insert_rows(connection, _INSERT, rows)
    elif rows:
        raw = await raw_connection(connection)
        await raw.copy_records_to_table(events.name, columns=_COLUMNS, records=rows)


def document_of(row: Row[Any]) -> dict[str, Any]:
    """Show a row as `Events.page` does."""
    document = dict(row._mapping)  # noqa: SLF001 -- SQLAlchemy's public name for it
    for name in ("decky", "service", "event_type", "src_ip", "dst_ip", "session", "text", "source", "cursor"):
        if document[name] is not None:
            document[name] = original(document[name])
    document["at"], document["received_at"] = iso(row.at), iso(row.received_at)
    document["fields"] = json_object(row.fields)
    return document


def _filtered(query: Select[Any], **filters: str | None) -> Select[Any]:
    for name, wanted in filters.items():
        if wanted is not None:
            query = query.where(events.c[name] == storable(wanted))
    return query


_COLUMNS = ("seq", *COLUMNS)

_INSERT = f"INSERT INTO events ({', '.join(_COLUMNS)}) VALUES "  # noqa: S608 -- names of ours
