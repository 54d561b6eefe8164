"""What the operator says of a worker host: its labels, and how many deckies it takes.

They belong to the name: decommissioning and enrolling it again keep them. Nothing that runs is changed by a change of
them; the next plan sees it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import select, update

from decnet_master.labels import changed
from decnet_master.store.engine import Database
from decnet_master.store.hosts import Host, Hosts, unknown
from decnet_master.store.schema import hosts
from decnet_master.store.values import json_object, json_text, storable


class Traits:
    """The room of what is said of hosts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._hosts = Hosts(database)

    async def label(self, name: str, given: Mapping[str, str], without: Collection[str] = ()) -> Host:
        """Give a host labels and take others away; those not named stay as they are.

        Raises:
            NotFound: there is no host of that name.
            Conflict: it would have too many.
        """
        async with self._database.write() as connection:
            query = select(hosts.c.labels).where(hosts.c.name == storable(name)).with_for_update()
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                raise unknown(name)
            kept = {} if row.labels is None else json_object(row.labels)
            labels = changed(name, kept, given, without)
            await connection.execute(
                update(hosts).where(hosts.c.name == storable(name)).values(labels=json_text(labels))
            )
        return await self._hosts.get(name)

    async def limit(self, name: str, capacity: int | None) -> Host:
        """Say how many deckies a host takes, None for as many as any; those that it runs stay.

        Raises:
            NotFound: there is no host of that name.
        """
        async with self._database.write() as connection:
            change = update(hosts).where(hosts.c.name == storable(name)).values(capacity=capacity)
            if (await connection.execute(change)).rowcount == 0:
                raise unknown(name)
        return await self._hosts.get(name)
