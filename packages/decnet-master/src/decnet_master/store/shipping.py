"""Shipping as the listener reports it, and the alarm for a worker from which nothing comes.

The listener writes the first three tables every few seconds (`store.doorbook`); here everybody else reads them. They
lie in the database, not in the listener's memory, because the API is another process and may be on another host, and
because what was known stays known when the listener is gone. A report that is older than `STALE` means that there is
no listener: nothing in it is "now" any more, `Overview.listening` says so.

Silence. A worker should ship when it is active and deckies are placed on it. When nothing (no line, no sign of life)
came from it for long enough, `settle_silences` stores one `worker.silent` event, and one `worker.heard` when it is
back. Whoever calls it, and however many do: a silence is a row of `worker_silences`, its primary key the host, and
the event is stored in the transaction that adds or removes the row. Nobody is called silent for a time in which
nobody listened: time counts from the start of the listener, and stands still while there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Integer, Row, Table, Text, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_core.events import Event, EventType, Trust
from decnet_master.store.doorbook import ListenerState
from decnet_master.store.engine import Database
from decnet_master.store.ingest import Ingest
from decnet_master.store.joining import HostStatus
from decnet_master.store.records import Load, NewEvent
from decnet_master.store.schema import dead_letters, deckies, events, hosts, ingest_position, metadata
from decnet_master.store.values import micros, moment

STALE = timedelta(seconds=20)
"""Four reports of the listener."""

shipping_workers = Table(
    "shipping_workers",
    metadata,
    Column("host", Text, primary_key=True),
    Column("connected", Boolean, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("stream", Text),
    Column("address", Text, nullable=False),
    Column("certificate_ends_at", BigInteger),
    Column("heard_at", BigInteger, nullable=False),
    Column("line_at", BigInteger),
    Column("acked_at", BigInteger),
    Column("lines", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("skips", BigInteger, nullable=False),
    Column("connections", BigInteger, nullable=False),
    Column("gaps", BigInteger, nullable=False),
    Column("repeats", BigInteger, nullable=False),
    Column("refusals", BigInteger, nullable=False),
)

shipping_streams = Table(
    "shipping_streams",
    metadata,
    Column("host", Text, primary_key=True),
    Column("stream", Text, primary_key=True),
    Column("durable_offset", BigInteger, nullable=False),
    Column("lines", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("skips", BigInteger, nullable=False),
    Column("heard_at", BigInteger, nullable=False),
    Column("line_at", BigInteger),
    Column("acked_at", BigInteger),
)

shipping_listener = Table(
    "shipping_listener",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("started_at", BigInteger, nullable=False),
    Column("reported_at", BigInteger, nullable=False),
    Column("journal_segment", BigInteger, nullable=False),
    Column("journal_offset", BigInteger, nullable=False),
    Column("journal_bytes", BigInteger, nullable=False),
    Column("quota_bytes", BigInteger, nullable=False),
    Column("free_bytes", BigInteger, nullable=False),
    Column("min_free_bytes", BigInteger, nullable=False),
    Column("stalled", Text),
    Column("backlog_lines", BigInteger, nullable=False),
    Column("backlog_bytes", BigInteger, nullable=False),
    Column("waits_since", BigInteger),
    Column("connections", BigInteger, nullable=False),
    Column("accepted", BigInteger, nullable=False),
    Column("handshakes_refused", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("superseded", BigInteger, nullable=False),
    Column("protocol_errors", BigInteger, nullable=False),
)

worker_silences = Table(
    "worker_silences",
    metadata,
    Column("host", Text, primary_key=True),
    Column("since", BigInteger, nullable=False),
)


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


@dataclass(frozen=True, slots=True)
class Settled:
    """Hosts whose silence began or ended just now."""

    silent: tuple[str, ...] = ()
    heard: tuple[str, ...] = ()


class Shipping:
    """The room of what the listener reports."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ingest = Ingest(database)

    async def overview(self, now: datetime) -> Overview:
        """Read the state of the listener and of every worker that is active or silent, by name."""
        async with self._database.read() as connection:
            listener = await _listener(connection)
            workers = (await connection.execute(_workers_query())).all()
            streams = (
                await connection.execute(select(shipping_streams).order_by(shipping_streams.c.heard_at.desc()))
            ).all()
        of_host: dict[str, list[StreamShipping]] = {}
        for row in streams:
            of_host.setdefault(row.host, []).append(_stream(row))
        listening = _is_listening(listener, now)
        return Overview(
            listening,
            listener,
            tuple(_worker(row, of_host.get(row.name, []), listening=listening) for row in workers),
        )

    async def listener(self) -> ListenerState | None:
        """Read the state of the listener alone; None when there never was one."""
        async with self._database.read() as connection:
            return await _listener(connection)

    async def silent_hosts(self) -> list[str]:
        """List the workers that should ship and are silent."""
        async with self._database.read() as connection:
            query = select(worker_silences.c.host).order_by(worker_silences.c.host)
            return list((await connection.execute(query)).scalars())

    async def recent_dead_letters(self, since: datetime, at_most: int) -> int:
        """Count dead letters that were received since a moment, at most so many: the newest are looked at."""
        newest = (
            select(dead_letters.c.received_at).order_by(dead_letters.c.seq.desc()).limit(at_most).subquery("newest")
        )
        query = select(func.count()).select_from(newest).where(newest.c.received_at >= micros(since))
        async with self._database.read() as connection:
            return (await connection.execute(query)).scalar_one()

    async def counts_by_type(self, after_seq: int) -> tuple[int, dict[str, int]]:
        """Count the events after a row by type; also the newest row's seq, to go on from."""
        query = (
            select(events.c.event_type, func.count(), func.max(events.c.seq))
            .where(events.c.seq > after_seq)
            .group_by(events.c.event_type)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return max((row[2] for row in rows), default=after_seq), {row[0]: row[1] for row in rows}

    async def settle_silences(self, now: datetime, after: timedelta) -> Settled:
        """Raise the alarm for workers that became silent, and end it for those that were heard again.

        Args:
            now: aware UTC.
            after: how long nothing must have come.
        """
        async with self._database.read() as connection:
            listener = await _listener(connection)
            rows = (await connection.execute(_workers_query())).all()
        if listener is None or not _is_listening(listener, now):
            return Settled()
        silent = {row.name: since for row in rows if (since := _silent_since(row, listener, now - after)) is not None}
        back = {row.name: row.heard_at for row in rows if row.since is not None and (row.heard_at or 0) > row.since}
        gone = [row.name for row in rows if row.since is not None and not _should_ship(row) and row.name not in back]
        if not (silent or back or gone):
            return Settled()
        return await self._settle(silent, back, gone, now)

    async def _settle(self, silent: dict[str, int], back: dict[str, int], gone: list[str], now: datetime) -> Settled:
        async with self._database.write() as connection:
            # The lock of whoever adds events, so that their `seq` is the order of commits.
            await connection.execute(update(ingest_position).values(id=1))
            raised = [host for host, since in silent.items() if await _added(connection, host, since)]
            ended: dict[str, int] = {}
            for host in (*back, *gone):
                since = await _removed(connection, host)
                if since is not None and host in back:
                    ended[host] = since
            rows = [
                *(NewEvent(_silent_event(host, moment(silent[host]), now), host, now) for host in raised),
                *(
                    NewEvent(_heard_event(host, moment(since), moment(back[host])), host, now)
                    for host, since in ended.items()
                ),
            ]
            if rows:
                await self._ingest.add(connection, Load.of(rows))
        return Settled(tuple(raised), tuple(ended))


def _workers_query() -> Any:
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


async def _listener(connection: AsyncConnection) -> ListenerState | None:
    row = (await connection.execute(select(shipping_listener))).one_or_none()
    if row is None:
        return None
    values = _moments(row, ("started_at", "reported_at", "waits_since"))
    del values["id"]
    return ListenerState(**values)


def _is_listening(listener: ListenerState | None, now: datetime) -> bool:
    return listener is not None and now - listener.reported_at < STALE


def _should_ship(row: Row[Any]) -> bool:
    return bool(row.active and row.placed)


def _silent_since(row: Row[Any], listener: ListenerState, limit: datetime) -> int | None:
    """Return since when a worker must be called silent that is not yet; None when there is no reason to."""
    since = max(row.heard_at or 0, row.enrolled_at or 0)
    if row.since is not None or not _should_ship(row) or max(since, micros(listener.started_at)) > micros(limit):
        return None
    return since


async def _added(connection: AsyncConnection, host: str, since: int) -> bool:
    try:
        async with connection.begin_nested():
            await connection.execute(insert(worker_silences).values(host=host, since=since))
    except IntegrityError:  # another process was first
        return False
    return True


async def _removed(connection: AsyncConnection, host: str) -> int | None:
    query = delete(worker_silences).where(worker_silences.c.host == host).returning(worker_silences.c.since)
    return (await connection.execute(query)).scalar_one_or_none()


def _silent_event(host: str, since: datetime, now: datetime) -> Event:
    return Event(
        at=now,
        decky=host,
        service="decnet",
        event_type=EventType.WORKER_SILENT,
        trust=Trust.SENSOR,
        source=f"master/silence/{host}",
        cursor=str(micros(since)),
        fields={"since": since.isoformat(), "silent_secs": str(int((now - since).total_seconds()))},
        text=f"Nothing came from {host} since {since:%Y-%m-%d %H:%M:%S} UTC",
    )


def _heard_event(host: str, since: datetime, heard_at: datetime) -> Event:
    return Event(
        at=heard_at,
        decky=host,
        service="decnet",
        event_type=EventType.WORKER_HEARD,
        trust=Trust.SENSOR,
        source=f"master/return/{host}",
        cursor=str(micros(heard_at)),
        fields={"since": since.isoformat(), "silent_secs": str(int((heard_at - since).total_seconds()))},
        text=f"{host} is heard again",
    )


def _worker(row: Row[Any], streams: Iterable[StreamShipping], *, listening: bool) -> WorkerShipping:
    head = {
        "host": row.name,
        "should_ship": _should_ship(row),
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
