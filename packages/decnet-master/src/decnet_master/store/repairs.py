"""Workers that could not be made as they shall be: how often it was tried, why not, when next.

It lies in the database so that a controller that starts again goes on where the last one was, and so that whoever looks
from elsewhere sees it. A worker that is as it shall be has no row.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from decnet_master.store.engine import Database
from decnet_master.store.heartbeat_tables import worker_repairs
from decnet_master.store.heartbeats import GIVES_UP_AFTER, MAX_WORDS_CHARS
from decnet_master.store.values import micros, moment, original, storable

__all__ = ["GIVES_UP_AFTER", "Repair", "Repairs"]


@dataclass(frozen=True, slots=True)
class Repair:
    """One worker's.

    Attributes:
        failures: attempts that failed in a row.
        alike: the last so many of them for the same reason.
        error: that reason.
        tried_at, next_at: aware UTC.
    """

    host: str
    failures: int
    alike: int
    error: str
    tried_at: datetime
    next_at: datetime

    def failed_again(self, error: str, tried_at: datetime, next_at: datetime) -> Repair:
        """Return what it is after one more attempt that failed."""
        alike = self.alike + 1 if error[:MAX_WORDS_CHARS] == self.error else 1
        return Repair(self.host, self.failures + 1, alike, error[:MAX_WORDS_CHARS], tried_at, next_at)


class Repairs:
    """The room of the repairs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self) -> dict[str, Repair]:
        """Read all, by worker."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(worker_repairs).order_by(worker_repairs.c.host))).all()
        return {
            row.host: Repair(
                row.host, row.failures, row.alike, original(row.error), moment(row.tried_at), moment(row.next_at)
            )
            for row in rows
        }

    async def keep(self, repair: Repair) -> None:
        """Write one down, in place of what was known of its worker."""
        values = {
            "failures": repair.failures,
            "alike": repair.alike,
            "error": storable(repair.error[:MAX_WORDS_CHARS]),
            "tried_at": micros(repair.tried_at),
            "next_at": micros(repair.next_at),
        }
        here = worker_repairs.c.host == repair.host
        async with self._database.write() as connection:
            if (await connection.execute(update(worker_repairs).where(here).values(values))).rowcount == 0:
                await connection.execute(insert(worker_repairs).values(host=repair.host, **values))

    async def clear(self, hosts: Collection[str]) -> None:
        """Forget some workers: they are as they shall be, or are none any more."""
        async with self._database.write() as connection:
            await connection.execute(delete(worker_repairs).where(worker_repairs.c.host.in_(list(hosts))))
