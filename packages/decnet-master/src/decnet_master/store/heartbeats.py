"""What the controller hears from its workers, and the alarm for one that does not answer.

A batch of heartbeats is one transaction: what each worker said, when it was last seen, how its deckies are, and the
events for those that went away or came back. A worker that did not answer `MISSES` times in a row is unreachable: one
`worker.unreachable` event then, and one `worker.reached` when it answers again. Both are stored in the transaction that
changes the worker's row, so each is told once, also over a restart of the controller.

Only workers that are active count. The rows of others go with the next batch, so that a name that is enrolled anew
begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_core.events import Event, EventType, Trust
from decnet_core.fleet import AgentStatus, DeckyState
from decnet_master.store.engine import Database
from decnet_master.store.fleet import Fleet
from decnet_master.store.heartbeat_tables import worker_heartbeats, worker_repairs
from decnet_master.store.hosts import MAX_VERSION_CHARS
from decnet_master.store.ingest import Ingest
from decnet_master.store.joining import HostStatus
from decnet_master.store.records import Load, NewEvent
from decnet_master.store.schema import hosts, ingest_position
from decnet_master.store.values import micros, moment, original, storable

MISSES = 3
"""Heartbeats in a row without an answer: one may be lost to a restart of the agent, two to a short loss of the link."""

GIVES_UP_AFTER = 5
"""Attempts to mend a worker that failed for one reason: some ten minutes, in which an engine may come back."""

MAX_WORDS_CHARS = 500
"""Of an error, and of each sentence about a worker."""

MAX_GENERATION = (1 << 63) - 1
"""What a column holds; a worker may say anything."""

MAX_DRIFT = 10
"""Sentences about one worker: who has more to mend looks at the deckies."""


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat.

    Attributes:
        host: who was asked.
        asked_at: aware UTC.
        status: its answer; None when there was none.
        error: why there was none.
        drift: how it differs from what it shall be, in words; None when that is not known now, and stays as it was.
        deckies: those of the answer that are worth writing down: that are not as they were last known.
    """

    host: str
    asked_at: datetime
    status: AgentStatus | None = None
    error: str | None = None
    drift: tuple[str, ...] | None = None
    deckies: tuple[DeckyState, ...] = ()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What is known of an active worker.

    Attributes:
        asked_at: when it was last asked; None before the first time.
        answered_at: when it last answered.
        unreachable_since: when it last answered, while it is unreachable; else None.
        error: why the last question has no answer.
        generation, engine, taps, drift: as it last answered.
        repair: why it could not be made as it shall be; None when there is nothing to repair, or it was not tried.
        repairs_alike: so many attempts in a row failed for that reason.
        repaired_next_at: when it is tried again.
    """

    host: str
    asked_at: datetime | None = None
    answered_at: datetime | None = None
    unreachable_since: datetime | None = None
    error: str | None = None
    generation: int | None = None
    engine: str | None = None
    taps: str | None = None
    drift: tuple[str, ...] = ()
    repair: str | None = None
    repairs_alike: int = 0
    repaired_next_at: datetime | None = None

    @property
    def is_given_up(self) -> bool:
        """Whether mending it failed so often for one reason that somebody has to look."""
        return self.repairs_alike >= GIVES_UP_AFTER


@dataclass(frozen=True, slots=True)
class Turned:
    """Workers that became unreachable just now, and those that are back; only the active ones of a batch are in it."""

    away: tuple[str, ...] = ()
    back: tuple[str, ...] = ()


class Heartbeats:
    """The room of the heartbeats."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._fleet = Fleet(database)
        self._ingest = Ingest(database)

    async def record(self, beats: Sequence[Beat], now: datetime) -> Turned:
        """Write a batch down; at most one heartbeat of each worker."""
        active = (hosts.c.name == worker_heartbeats.c.host) & (hosts.c.status == HostStatus.ACTIVE.value)
        async with self._database.write() as connection:
            known = await _known(connection, [beat.host for beat in beats])
            counted = [beat for beat in beats if beat.host in known]
            changes = [_Change.of(beat, known[beat.host]) for beat in counted]
            if changes:
                await _write(connection, changes, {name for name, row in known.items() if row.host is not None})
                await self._fleet.observe(connection, _states(counted))
            await connection.execute(delete(worker_heartbeats).where(~select(hosts.c.name).where(active).exists()))
            rows = [NewEvent(change.event(now), change.host, now) for change in changes if change.turned]
            if rows:
                # The lock of whoever adds events, so that their `seq` is the order of commits.
                await connection.execute(update(ingest_position).values(id=1))
                await self._ingest.add(connection, Load.of(rows))
        turned = [change for change in changes if change.turned]
        return Turned(
            away=tuple(change.host for change in turned if change.is_away),
            back=tuple(change.host for change in turned if not change.is_away),
        )

    async def list(self) -> dict[str, Heartbeat]:
        """Tell what is known of every active worker, by name."""
        query = (
            select(
                hosts.c.name, *worker_heartbeats.c, *(column.label(f"r_{column.name}") for column in worker_repairs.c)
            )
            .outerjoin(worker_heartbeats, worker_heartbeats.c.host == hosts.c.name)
            .outerjoin(worker_repairs, worker_repairs.c.host == hosts.c.name)
            .where(hosts.c.status == HostStatus.ACTIVE.value)
            .order_by(hosts.c.name)
        )
        async with self._database.read() as connection:
            return {row.name: _heartbeat(row) for row in await connection.execute(query)}


@dataclass(frozen=True, slots=True)
class _Change:
    """A worker's row as it becomes; `since` is when it was last known to be there."""

    host: str
    values: dict[str, Any]
    seen: tuple[str, int] | None
    since: int
    is_away: bool
    turned: bool
    at: int
    reason: str

    @classmethod
    def of(cls, beat: Beat, before: Row[Any]) -> _Change:
        at, status = micros(beat.asked_at), beat.status
        was_away = before.unreachable_since is not None
        since = before.unreachable_since or before.answered_at or before.enrolled_at or at
        values: dict[str, Any] = {"asked_at": at}
        if status is None:
            misses = (before.misses or 0) + 1
            is_away = was_away or misses >= MISSES
            reason = beat.error or "it did not answer"
            values |= {
                "misses": misses,
                "error": _words(reason),
                "unreachable_since": since if is_away else None,
                **{name: getattr(before, name) for name in ("answered_at", "generation", "engine", "taps", "drift")},
            }
            return cls(beat.host, values, None, since, is_away, is_away and not was_away, at, reason)
        values |= {
            "answered_at": at,
            "misses": 0,
            "unreachable_since": None,
            "error": None,
            "generation": min(status.generation, MAX_GENERATION),
            "engine": None if status.engine is None else _words(status.engine),
            "taps": _words(status.taps),
            "drift": before.drift if beat.drift is None else _sentences(beat.drift),
        }
        seen = (storable(status.version[:MAX_VERSION_CHARS]), at)
        return cls(beat.host, values, seen, since, is_away=False, turned=was_away, at=at, reason="")

    def event(self, now: datetime) -> Event:
        since = moment(self.since)
        fields = {"since": since.isoformat(), "away_secs": str(int((moment(self.at) - since).total_seconds()))}
        if self.is_away:
            text = f"The agent of {self.host} cannot be reached since {since:%Y-%m-%d %H:%M:%S} UTC: {self.reason}"
            fields["reason"] = self.reason[:MAX_WORDS_CHARS]
        else:
            text = f"The agent of {self.host} answers again"
        return Event(
            at=now,
            decky=self.host,
            service="decnet",
            event_type=EventType.WORKER_UNREACHABLE if self.is_away else EventType.WORKER_REACHED,
            trust=Trust.SENSOR,
            source=f"master/{'unreachable' if self.is_away else 'reached'}/{self.host}",
            cursor=str(self.at),
            fields=fields,
            text=text,
        )


async def _known(connection: AsyncConnection, names: Sequence[str]) -> dict[str, Row[Any]]:
    """Lock the active ones among some workers, and then read what is known of them."""
    active = hosts.c.status == HostStatus.ACTIVE.value, hosts.c.name.in_(list(names))
    # Two statements: PostgreSQL reads what it joins before it waits for the lock. In one order, so that none crosses,
    # and without the key: whoever places deckies on these hosts refers to it, and holds what is written after this.
    lock = select(hosts.c.name).where(*active).order_by(hosts.c.name).with_for_update(key_share=True)
    await connection.execute(lock)
    query = (
        select(hosts.c.name, hosts.c.enrolled_at, *worker_heartbeats.c)
        .outerjoin(worker_heartbeats, worker_heartbeats.c.host == hosts.c.name)
        .where(*active)
    )
    return {row.name: row for row in await connection.execute(query)}


async def _write(connection: AsyncConnection, changes: Sequence[_Change], there: set[str]) -> None:
    columns = [column.name for column in worker_heartbeats.c if column.name != "host"]
    old = [change for change in changes if change.host in there]
    if old:
        await connection.execute(
            update(worker_heartbeats)
            .where(worker_heartbeats.c.host == bindparam("at_host"))
            .values({name: bindparam(f"new_{name}") for name in columns}),
            [{"at_host": one.host} | {f"new_{name}": one.values[name] for name in columns} for one in old],
        )
    if new := [change for change in changes if change.host not in there]:
        await connection.execute(insert(worker_heartbeats), [{"host": one.host, **one.values} for one in new])
    if seen := [(change.host, *change.seen) for change in changes if change.seen is not None]:
        newer = hosts.c.seen_at.is_(None) | (hosts.c.seen_at < bindparam("new_at"))
        await connection.execute(
            update(hosts)
            .where(hosts.c.name == bindparam("at_name"), newer)
            .values(version=bindparam("new_version"), seen_at=bindparam("new_at")),
            [{"at_name": host, "new_version": version, "new_at": at} for host, version, at in seen],
        )


def _states(beats: Sequence[Beat]) -> list[tuple[str, int, DeckyState]]:
    return [
        (beat.host, min(beat.status.generation, MAX_GENERATION), state)
        for beat in beats
        if beat.status is not None
        for state in beat.deckies
    ]


def _heartbeat(row: Row[Any]) -> Heartbeat:
    def at(value: int | None) -> datetime | None:
        return None if value is None else moment(value)

    def words(value: str | None) -> str | None:
        return None if value is None else original(value)

    return Heartbeat(
        host=row.name,
        asked_at=at(row.asked_at),
        answered_at=at(row.answered_at),
        unreachable_since=at(row.unreachable_since),
        error=words(row.error),
        generation=row.generation,
        engine=words(row.engine),
        taps=words(row.taps),
        drift=() if row.drift is None else tuple(map(original, json.loads(row.drift))),
        repair=words(row.r_error),
        repairs_alike=row.r_alike or 0,
        repaired_next_at=at(row.r_next_at),
    )


def _sentences(drift: Sequence[str]) -> str | None:
    return json.dumps([_words(words) for words in drift[:MAX_DRIFT]]) if drift else None


def _words(text: str) -> str:
    return storable(text[:MAX_WORDS_CHARS])
