"""The fleet as it shall be and as it was last seen.

Desired state is replaced as a whole under a generation number that only grows. A decky's own generation is the one
since which it is as it is, so that the newest among a worker's deckies is what that worker must have heard of, and one
that a change does not concern need not be told. What a worker reported is kept beside it, decky by decky. A decky that
is no longer wanted stays, marked so, until its worker says that it is gone: it may still run. Reports about an older
generation than a decky's own change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_core.errors import Conflict, LocalProtocolError
from decnet_core.fleet import DeckyPhase, DeckySpec, DeckyState, ShardReport
from decnet_master.store.derived_tables import sessions
from decnet_master.store.engine import Database
from decnet_master.store.joining import HostStatus
from decnet_master.store.schema import deckies, generations, hosts
from decnet_master.store.values import micros, moment, original, storable
from decnet_master.terms import FIXED, Terms

MAX_ERROR_CHARS = 1000
"""Of what a worker says about one decky: some sentences. It is a machine that attackers are led to."""

MAX_CONTAINER_CHARS = 128
"""An engine's id has 64."""


@dataclass(frozen=True, slots=True)
class PlacedDecky:
    """One decky on its host.

    Attributes:
        host: the worker that runs it, or shall.
        spec: as it was asked for.
        phase: as the worker last reported it; None before its first report. See `known_phase`.
        ip, mac: what it really has, as reported.
        error: why it is not running.
        moved_from, moved_because: the address that was wanted and that it has not, and why; as reported.
        contested_by: the MAC of another machine that has its address too; as reported.
        terms: what it may become.
        generation: the desired state since which it is wanted as it is, or no longer wanted.
        host_status: where its worker stands.
    """

    host: str
    spec: DeckySpec
    phase: DeckyPhase | None
    ip: str | None
    mac: str | None
    error: str | None
    generation: int
    moved_from: str | None = None
    moved_because: str | None = None
    contested_by: str | None = None
    host_status: HostStatus = HostStatus.ACTIVE
    terms: Terms = FIXED

    @property
    def known_phase(self) -> DeckyPhase | None:
        """How it is, as far as anybody knows: what a worker said that is not active any more says nothing of now.

        Its deckies may run on, be gone, or be in a thief's hands; nobody asks it, and it would not be believed.
        """
        return self.phase if self.host_status is HostStatus.ACTIVE else None


@dataclass(frozen=True, slots=True)
class WorkerFleet:
    """What one worker shall run, and what it may still run though it no longer shall; both by name."""

    wanted: tuple[PlacedDecky, ...] = ()
    lingering: tuple[PlacedDecky, ...] = ()

    @property
    def generation(self) -> int:
        """The generation that this worker must have heard of; 0 where nothing is placed on it."""
        return max((decky.generation for decky in (*self.wanted, *self.lingering)), default=0)


class Fleet:
    """The room of the fleet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def next_generation(self, now: datetime) -> int:
        """Take the next generation number: larger than any taken before, never the same for two callers."""
        async with self._database.write() as connection:
            result = await connection.execute(insert(generations).values(created_at=micros(now), placed=False))
            (number,) = result.inserted_primary_key or (None,)
        if not isinstance(number, int):
            raise LocalProtocolError("The database gave no generation number")
        return number

    async def place(
        self,
        generation: int,
        placements: Sequence[tuple[str, DeckySpec]],
        terms: Mapping[str, Terms] | None = None,
    ) -> None:
        """Replace the whole desired state.

        Args:
            generation: from `next_generation`.
            placements: host and decky; hosts are known, deckies' names differ.
            terms: what each may become, by its name; one that is not there is fixed. None leaves all as they are.

        Raises:
            Conflict: a newer generation is placed already, a name occurs twice, or a host is not known.
        """
        names = [spec.name for _, spec in placements]
        if len(set(names)) != len(names):
            raise Conflict("Two deckies of the fleet have the same name", "Give each decky its own name.")
        try:
            async with self._database.write() as connection:
                if not self._database.is_sqlite:  # there, the write lock does it
                    await connection.execute(text("LOCK TABLE deckies IN SHARE ROW EXCLUSIVE MODE"))
                await _claim(connection, generation)
                await _replace(connection, generation, placements)
                if terms is not None:
                    await _agree(connection, terms)
        except IntegrityError:
            raise Conflict("The fleet names a host that is not enrolled", "Enrol it, or leave it out.") from None

    async def current(self) -> list[PlacedDecky]:
        """List what shall run, by host and name."""
        return await self._list(desired=True)

    async def lingering(self) -> list[PlacedDecky]:
        """List what shall no longer run and has not been reported gone, by host and name."""
        return await self._list(desired=False)

    async def of_workers(self, hosts: Collection[str]) -> tuple[int, dict[str, WorkerFleet]]:
        """Read the newest generation that was placed (0 before the first), and what each of some workers shall run.

        A worker on which nothing is placed is not in it.
        """
        newest = select(func.max(generations.c.number)).where(generations.c.placed)
        query = _rows().where(deckies.c.host.in_(list(hosts)))
        found: dict[str, tuple[list[PlacedDecky], list[PlacedDecky]]] = {}
        async with self._database.read() as connection:
            generation = (await connection.execute(newest)).scalar_one_or_none() or 0
            for row in await connection.execute(query):
                wanted, lingering = found.setdefault(row.host, ([], []))
                (wanted if row.desired else lingering).append(_placed(row))
        return generation, {host: WorkerFleet(tuple(one), tuple(other)) for host, (one, other) in found.items()}

    async def observe(self, connection: AsyncConnection, seen: Sequence[tuple[str, int, DeckyState]]) -> None:
        """Note how deckies are, in the caller's transaction.

        Args:
            connection: in a transaction that may write.
            seen: worker, the generation that it has, and a decky of it. One that is newer there than that stays.
        """
        if not seen:
            return
        here = deckies.c.host == bindparam("at_host"), deckies.c.name == bindparam("at_name")
        change = update(deckies).where(*here, deckies.c.generation <= bindparam("at_most"))
        names = list(_observed(seen[0][2]))
        await connection.execute(
            change.values(
                {name: bindparam(f"new_{name}") for name in names} | {"observed_generation": bindparam("at_most")}
            ),
            [
                {"at_host": host, "at_name": state.name, "at_most": generation}
                | {f"new_{name}": value for name, value in _observed(state).items()}
                # in one order, so that two who write the same rows never wait for each other
                for host, generation, state in sorted(seen, key=lambda one: (one[0], one[2].name))
            ],
        )

    async def record(self, report: ShardReport) -> None:
        """Note what became of a worker's shard; its words are cut to what is worth keeping."""
        await self.record_all([report])

    async def record_all(self, reports: Sequence[ShardReport], answered_at: datetime | None = None) -> None:
        """Note what became of the shards of some workers, in one transaction.

        Args:
            reports: what they said; of one worker's the last counts.
            answered_at: notes also that they were seen then; an older sighting than the stored one changes nothing.
        """
        async with self._database.write() as connection:
            if answered_at is not None:
                # Hosts first and in one order, as with heartbeats: so none waits for another that waits for it.
                seen = {"at": micros(answered_at)}
                newer = hosts.c.seen_at.is_(None) | (hosts.c.seen_at < bindparam("at"))
                await connection.execute(
                    update(hosts).where(hosts.c.name == bindparam("at_name"), newer).values(seen_at=bindparam("at")),
                    [{"at_name": name} | seen for name in sorted({report.host for report in reports})],
                )
            states = [(report.host, report.generation, state) for report in reports for state in report.deckies]
            await self.observe(connection, states)
            # What shall not run and is not in a report of everything that runs is gone. The report's names are compared
            # here: a worker may send more of them than a statement takes.
            columns = deckies.c.host, deckies.c.name, deckies.c.generation
            said = {report.host: report for report in reports}
            lingering = deckies.c.host.in_(list(said)), deckies.c.desired.is_(False)
            rows = (await connection.execute(select(*columns).where(*lingering))).all()
            if gone := sorted(
                (row.host, row.name) for row in rows if _is_gone(row.name, row.generation, said[row.host])
            ):
                here = deckies.c.host == bindparam("at_host"), deckies.c.name == bindparam("at_name")
                still = deckies.c.desired.is_(False), deckies.c.generation <= bindparam("at_most")
                await connection.execute(
                    delete(deckies).where(*here, *still),
                    [{"at_host": host, "at_name": name, "at_most": said[host].generation} for host, name in gone],
                )

    async def in_use(self, since: datetime) -> frozenset[tuple[str, str]]:
        """Tell which deckies had a visitor: worker and name of each with an event of a session stored since then."""
        query = select(sessions.c.worker, sessions.c.decky).where(sessions.c.received_at >= micros(since)).distinct()
        async with self._database.read() as connection:
            return frozenset((row.worker, row.decky) for row in await connection.execute(query))

    async def left_alone_since(self, since: datetime) -> list[tuple[str, str]]:
        """Tell which deckies had a visitor after they were last made or changed, and none after that moment.

        Returns:
            worker and name of each, the one that was left first of all before the others.
        """
        last = func.max(sessions.c.received_at)
        visits = select(sessions.c.worker, sessions.c.decky, last.label("last_at"))
        visited = visits.group_by(sessions.c.worker, sessions.c.decky).subquery()
        query = (
            select(deckies.c.host, deckies.c.name)
            .join(visited, (visited.c.worker == deckies.c.host) & (visited.c.decky == deckies.c.name))
            .join(generations, generations.c.number == deckies.c.generation)
            .where(deckies.c.desired, visited.c.last_at > generations.c.created_at, visited.c.last_at <= micros(since))
            .order_by(visited.c.last_at, deckies.c.name)
        )
        async with self._database.read() as connection:
            return [(row.host, row.name) for row in await connection.execute(query)]

    async def _list(self, *, desired: bool) -> list[PlacedDecky]:
        query = _rows().where(deckies.c.desired.is_(desired))
        async with self._database.read() as connection:
            return [_placed(row) for row in await connection.execute(query)]


def _is_gone(name: str, generation: int, report: ShardReport) -> bool:
    there = {decky.name for decky in report.deckies} - set(report.removed)
    return generation <= report.generation and name not in there


async def _claim(connection: AsyncConnection, generation: int) -> None:
    """Make this the placed generation, or refuse."""
    claim = update(generations).where(generations.c.number == generation).values(placed=True)
    if (await connection.execute(claim)).rowcount != 1:
        raise Conflict(f"Generation {generation} was never taken", "Take one with next_generation.")
    newest = select(func.max(generations.c.number)).where(generations.c.placed)
    if (await connection.execute(newest)).scalar_one() > generation:
        raise Conflict(f"Generation {generation} is older than the fleet's", "Plan again from the present state.")


async def _replace(connection: AsyncConnection, generation: int, placements: Sequence[tuple[str, DeckySpec]]) -> None:
    """Write what differs from the fleet as it was; what does not keeps its generation."""
    columns = deckies.c.host, deckies.c.name, deckies.c.spec, deckies.c.desired
    before = {(row.host, row.name): row for row in await connection.execute(select(*columns))}
    wanted = {(host, spec.name): spec.model_dump_json() for host, spec in placements}
    gone = [key for key, row in before.items() if row.desired and key not in wanted]
    changed = [
        key for key, spec in wanted.items() if key in before and (before[key].spec != spec or not before[key].desired)
    ]
    here = deckies.c.host == bindparam("at_host"), deckies.c.name == bindparam("at_name")
    values = {"generation": generation, "desired": True}
    if gone:
        await connection.execute(
            update(deckies).where(*here).values(generation=generation, desired=False),
            [{"at_host": host, "at_name": name} for host, name in gone],
        )
    if changed:
        await connection.execute(
            update(deckies).where(*here).values(**values, spec=bindparam("new_spec")),
            [{"at_host": host, "at_name": name, "new_spec": wanted[host, name]} for host, name in changed],
        )
    if new := [(*key, spec) for key, spec in wanted.items() if key not in before]:
        rows = [{"host": host, "name": name, "spec": spec, **values} for host, name, spec in new]
        await connection.execute(insert(deckies), rows)


async def _agree(connection: AsyncConnection, terms: Mapping[str, Terms]) -> None:
    """Write the terms that differ; nobody's generation grows by it, for no worker is told."""
    columns = deckies.c.host, deckies.c.name, deckies.c.sometimes, deckies.c.mutated_at
    rows = (await connection.execute(select(*columns).where(deckies.c.desired))).all()
    if changed := [row for row in rows if _terms(row) != terms.get(row.name, FIXED)]:
        here = deckies.c.host == bindparam("at_host"), deckies.c.name == bindparam("at_name")
        await connection.execute(
            update(deckies).where(*here).values(sometimes=bindparam("new_words"), mutated_at=bindparam("new_at")),
            [{"at_host": row.host, "at_name": row.name} | _written(terms.get(row.name, FIXED)) for row in changed],
        )


def _written(terms: Terms) -> dict[str, Any]:
    return {
        "new_words": json.dumps(terms.sometimes) if terms.sometimes else None,
        "new_at": None if terms.mutated_at is None else micros(terms.mutated_at),
    }


def _terms(row: Any) -> Terms:
    return Terms(
        sometimes=() if row.sometimes is None else tuple(json.loads(row.sometimes)),
        mutated_at=None if row.mutated_at is None else moment(row.mutated_at),
    )


def _rows() -> Select[Any]:
    query = select(deckies, hosts.c.status.label("host_status")).join(hosts, hosts.c.name == deckies.c.host)
    return query.order_by(deckies.c.host, deckies.c.name)


def _observed(state: DeckyState) -> dict[str, Any]:
    return {
        "phase": state.phase.value,
        "ip": None if state.ip is None else str(state.ip),
        "mac": state.mac,
        "container": None if state.container is None else storable(state.container[:MAX_CONTAINER_CHARS]),
        "error": None if state.error is None else storable(state.error[:MAX_ERROR_CHARS]),
        "moved_from": None if state.moved_from is None else str(state.moved_from),
        "moved_because": None if state.moved_because is None else storable(state.moved_because[:MAX_ERROR_CHARS]),
        "contested_by": state.contested_by,
    }


def _placed(row: Row[Any]) -> PlacedDecky:
    return PlacedDecky(
        host=row.host,
        spec=DeckySpec.model_validate_json(row.spec),
        phase=None if row.phase is None else DeckyPhase(row.phase),
        ip=row.ip,
        mac=row.mac,
        error=None if row.error is None else original(row.error),
        generation=row.generation,
        moved_from=row.moved_from,
        moved_because=None if row.moved_because is None else original(row.moved_because),
        contested_by=row.contested_by,
        host_status=HostStatus(row.host_status),
        terms=_terms(row),
    )
