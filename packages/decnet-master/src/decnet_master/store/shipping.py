"""Shipping as the listener reports it.

The listener writes its tables every few seconds (`store.doorbook`); here everybody else reads them. They
lie in the database, not in the listener's memory, because the API is another process and may be on another host, and
because what was known stays known when the listener is gone. A report that is older than `STALE` means that there is
no listener: nothing in it is "now" any more, `Overview.listening` says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_master.store.derived_tables import event_types
from decnet_master.store.doorbook import ListenerState
from decnet_master.store.engine import Database
from decnet_master.store.joining import HostStatus
from decnet_master.store.schema import dead_letters, deckies, hosts
from decnet_master.store.shipping_tables import (
    shipping_listener,
    shipping_streams,
    shipping_workers,
    worker_silences,
)
from decnet_master.store.values import micros, moment

STALE = timedelta(seconds=20)
"""Four reports of the listener."""


@dataclass(frozen=True, slots=True)
class StreamShipping:
    """One stream of a worker; counts are of all time, as far as the listener wrote them down."""

    stream: str
    durable_offset: int
    lines: int
    bytes: int
    skips: int
    heard_at: datetime
    line_at: datetime | None
    acked_at: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerShipping:
    """One worker; see `doorbook.WorkerReport`. One that was never heard has no moments and no streams.

    Attributes:
        should_ship: it is active and deckies are placed on it.
        silent_since: when it was last heard, while it is silent; else None.
        streams: newest first.
    """

    host: str
    should_ship: bool
    silent_since: datetime | None
    connected: bool = False
    changed_at: datetime | None = None
    stream: str | None = None
    address: str | None = None
    certificate_ends_at: datetime | None = None
    heard_at: datetime | None = None
    line_at: datetime | None = None
    acked_at: datetime | None = None
    lines: int = 0
    bytes: int = 0
    skips: int = 0
    connections: int = 0
    gaps: int = 0
    repeats: int = 0
    refusals: int = 0
    streams: tuple[StreamShipping, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it; `listening` when the listener reported just now, `listener` is None when there never was one."""

    listening: bool
    listener: ListenerState | None
    workers: tuple[WorkerShipping, ...]


class Shipping:
    """The room of what the listener reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def overview(self, now: datetime) -> Overview:
        """Read the state of the listener and of every worker that is active or silent, by name."""
        async with self._database.read() as connection:
            listener = await read_listener(connection)
            workers = (await connection.execute(workers_query())).all()
            streams = (
                await connection.execute(select(shipping_streams).order_by(shipping_streams.c.heard_at.desc()))
            ).all()
        of_host: dict[str, list[StreamShipping]] = {}
        for row in streams:
            of_host.setdefault(row.host, []).append(_stream(row))
        listening = is_listening(listener, now)
        return Overview(
            listening,
            listener,
            tuple(_worker(row, of_host.get(row.name, []), listening=listening) for row in workers),
        )

    async def listener(self) -> ListenerState | None:
        """Read the state of the listener alone; None when there never was one."""
        async with self._database.read() as connection:
            return await read_listener(connection)

    async def recent_dead_letters(self, since: datetime, at_most: int) -> int:
        """Count dead letters that were received since a moment, at most so many: the newest are looked at."""
        newest = (
            select(dead_letters.c.received_at).order_by(dead_letters.c.seq.desc()).limit(at_most).subquery("newest")
        )
        query = select(func.count()).select_from(newest).where(newest.c.received_at >= micros(since))
        async with self._database.read() as connection:
            return (await connection.execute(query)).scalar_one()

    async def counts_by_type(self) -> dict[str, int]:
        """Tell how many events of each type there are, as the sums have it: a row for each, however many events."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(event_types.c.event_type, event_types.c.events))
            return {row.event_type: row.events for row in rows}


def workers_query() -> Any:
    """Ask for every worker that is active or silent, with what is known of its shipping."""
    placed = select(deckies.c.name).where(deckies.c.host == hosts.c.name, deckies.c.desired).exists()
    return (
        select(
            hosts.c.name,
            hosts.c.enrolled_at,
            (hosts.c.status == HostStatus.ACTIVE.value).label("active"),
            placed.label("placed"),
            worker_silences.c.since,
            *shipping_workers.c,
        )
        .outerjoin(shipping_workers, shipping_workers.c.host == hosts.c.name)
        .outerjoin(worker_silences, worker_silences.c.host == hosts.c.name)
        .where((hosts.c.status == HostStatus.ACTIVE.value) | worker_silences.c.since.is_not(None))
        .order_by(hosts.c.name)
    )


async def read_listener(connection: AsyncConnection) -> ListenerState | None:
    """Read the state of the listener in the caller's transaction."""
    row = (await connection.execute(select(shipping_listener))).one_or_none()
    if row is None:
        return None
    values = _moments(row, ("started_at", "reported_at", "waits_since"))
    del values["id"]
    return ListenerState(**values)


def is_listening(listener: ListenerState | None, now: datetime) -> bool:
    """Tell whether the listener reported just now."""
    return listener is not None and now - listener.reported_at < STALE


def should_ship(row: Row[Any]) -> bool:
    """Tell of a row of `workers_query` whether the worker is active and deckies are placed on it."""
    return bool(row.active and row.placed)


def _worker(row: Row[Any], streams: Iterable[StreamShipping], *, listening: bool) -> WorkerShipping:
    head = {
        "host": row.name,
        "should_ship": should_ship(row),
        "silent_since": None if row.since is None else moment(row.since),
    }
    if row.host is None:
        return WorkerShipping(**head)
    names = [column.name for column in shipping_workers.c if column.name != "host"]
    at = ("changed_at", "certificate_ends_at", "heard_at", "line_at", "acked_at")
    values = {name: value for name, value in _moments(row, at).items() if name in names}
    values["connected"] = row.connected and listening
    return WorkerShipping(**head, **values, streams=tuple(streams))


def _stream(row: Row[Any]) -> StreamShipping:
    values = _moments(row, ("heard_at", "line_at", "acked_at"))
    del values["host"]
    return StreamShipping(**values)


def _moments(row: Row[Any], names: Iterable[str]) -> dict[str, Any]:
    values = dict(row._mapping)  # noqa: SLF001 -- SQLAlchemy's public name for it
    return values | {name: None if values[name] is None else moment(values[name]) for name in names}
