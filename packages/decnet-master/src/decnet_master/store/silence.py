"""The alarm for a worker from which nothing comes.

A worker should ship when it is active and deckies are placed on it. When nothing (no line, no sign of life) came from
it for long enough, `settle` stores one `worker.silent` event, and one `worker.heard` when it is back. Whoever calls it,
and however many do: a silence is a row of `worker_silences`, its primary key the host, and the event is stored in the
transaction that adds or removes the row. Nobody is called silent for a time in which nobody listened: time counts from
the start of the listener, and stands still while there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_core.events import Event, EventType, Trust
from decnet_master.store.doorbook import ListenerState
from decnet_master.store.engine import Database
from decnet_master.store.ingest import Ingest
from decnet_master.store.records import Load, NewEvent
from decnet_master.store.schema import ingest_position
from decnet_master.store.shipping import is_listening, read_listener, should_ship, workers_query
from decnet_master.store.shipping_tables import worker_silences
from decnet_master.store.values import micros, moment


@dataclass(frozen=True, slots=True)
class Settled:
    """Hosts whose silence began or ended just now."""

    silent: tuple[str, ...] = ()
    heard: tuple[str, ...] = ()


class Silences:
    """The room of the silent workers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ingest = Ingest(database)

    async def hosts(self) -> list[str]:
        """List the workers that should ship and are silent."""
        async with self._database.read() as connection:
            query = select(worker_silences.c.host).order_by(worker_silences.c.host)
            return list((await connection.execute(query)).scalars())

    async def settle(self, now: datetime, after: timedelta) -> Settled:
        """Raise the alarm for workers that became silent, and end it for those that were heard again.

        Args:
            now: aware UTC.
            after: how long nothing must have come.
        """
        async with self._database.read() as connection:
            listener = await read_listener(connection)
            rows = (await connection.execute(workers_query())).all()
        if listener is None or not is_listening(listener, now):
            return Settled()
        silent = {row.name: since for row in rows if (since := _silent_since(row, listener, now - after)) is not None}
        back = {row.name: row.heard_at for row in rows if row.since is not None and (row.heard_at or 0) > row.since}
        gone = [row.name for row in rows if row.since is not None and not should_ship(row) and row.name not in back]
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


def _silent_since(row: Row[Any], listener: ListenerState, limit: datetime) -> int | None:
    """Return since when a worker must be called silent that is not yet; None when there is no reason to."""
    since = max(row.heard_at or 0, row.enrolled_at or 0)
    if row.since is not None or not should_ship(row) or max(since, micros(listener.started_at)) > micros(limit):
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
    told = f"Nothing came from {host} since {since:%Y-%m-%d %H:%M:%S} UTC"
    return _event(EventType.WORKER_SILENT, f"master/silence/{host}", host, since, now, cursor=since, text=told)


def _heard_event(host: str, since: datetime, heard_at: datetime) -> Event:
    told = f"{host} is heard again"
    return _event(EventType.WORKER_HEARD, f"master/return/{host}", host, since, heard_at, cursor=heard_at, text=told)


def _event(
    event_type: EventType, source: str, host: str, since: datetime, at: datetime, *, cursor: datetime, text: str
) -> Event:
    return Event(
        at=at,
        decky=host,
        service="decnet",
        event_type=event_type,
        trust=Trust.SENSOR,
        source=source,
        cursor=str(micros(cursor)),
        fields={"since": since.isoformat(), "silent_secs": str(int((at - since).total_seconds()))},
        text=text,
    )
