"""The listener's own way into the database: who may come in, and what was delivered, by the bare drivers.

The listener asks one question of the database and writes three small tables, and is to stay under 60 MiB whatever
the load. SQLAlchemy would be 20 of them, so this module goes without: three statements in words that both engines
understand, through `store.bare_drivers`. `store.shipping` has the same tables
in SQLAlchemy's words for everybody else; a test writes here and reads there, on both engines.

A report is one transaction, and says what changed since the last one: counts are added to what is stored, moments and
offsets replace it. So counts go on over a restart of the listener; a `kill -9` costs those of the last seconds. They
are for people and alarms: the truth about offsets is the journal's.

Every answer is bounded in time. A failure is an Unavailable, RetryLater where it is known to pass.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self

from decnet_core.errors import ConfigError, RetryLater, Unavailable
from decnet_master.store.bare_drivers import Driver, connect
from decnet_master.store.revision import HEAD
from decnet_master.store.values import micros

STREAMS_PER_HOST = 8
"""Rows of streams that are kept: a stream is one file of a worker's log, and the files before it are history."""

Caller = tuple[str, str]
"""Host name and fingerprint of a verified certificate."""


@dataclass(frozen=True, slots=True)
class StreamReport:
    """One stream since the last report: `durable_offset` and moments as they are now, the others to be added."""

    host: str
    stream: str
    durable_offset: int
    lines: int
    bytes: int
    skips: int
    heard_at: datetime
    line_at: datetime | None
    acked_at: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One worker since the last report.

    Attributes:
        host: its name, from its certificate.
        connected: whether a connection of it is open, since or not since `changed_at`.
        stream: which stream it ships now, or shipped last.
        address: where it called from last.
        certificate_ends_at: of the certificate that it showed last.
        heard_at: when its last byte came, be it of a line or a sign of life.
        line_at, acked_at: of its last line, and when we last told it that lines are durable.
        lines, bytes, skips: of lines that are durable; a skip is what it declared not to send. To be added, as are:
        connections: how often it connected.
        gaps, repeats: blocks that the journal refused, beginning behind or before the stream's end.
        refusals: how often it was refused or shut out.
    """

    host: str
    connected: bool
    changed_at: datetime
    stream: str | None
    address: str
    certificate_ends_at: datetime | None
    heard_at: datetime
    line_at: datetime | None
    acked_at: datetime | None
    lines: int = 0
    bytes: int = 0
    skips: int = 0
    connections: int = 0
    gaps: int = 0
    repeats: int = 0
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class ListenerState:
    """The listener and its journal, as they are.

    Attributes:
        started_at, reported_at: of this listener.
        journal_segment, journal_offset: where what is durable ends.
        journal_bytes: all segments.
        quota_bytes, free_bytes, min_free_bytes: how much they may be, what the disk has left, what it must keep.
        stalled: why nothing is acknowledged, or None.
        backlog_lines, backlog_bytes: what waits for the ingester.
        waits_since: since when something waits and the ingester takes none of it; None when nothing waits.
        connections: open now.
        accepted, handshakes_refused, refused, superseded, protocol_errors: since `started_at`.
    """

    started_at: datetime
    reported_at: datetime
    journal_segment: int
    journal_offset: int
    journal_bytes: int
    quota_bytes: int
    free_bytes: int
    min_free_bytes: int
    stalled: str | None
    backlog_lines: int
    backlog_bytes: int
    waits_since: datetime | None
    connections: int
    accepted: int
    handshakes_refused: int
    refused: int
    superseded: int
    protocol_errors: int


ADDED = frozenset({"lines", "bytes", "skips", "connections", "gaps", "repeats", "refusals"})
"""Columns that a report adds to."""


class DoorBook:
    """An open database whose schema is this release's; make one with `DoorBook.open`, and close it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect and check the schema.

        Args:
            url: as for `Store.open`.

        Raises:
            ConfigError: not such a URL, no such file, or the schema is not this release's.
            Unavailable, RetryLater: the database does not answer.
        """
        driver = await connect(url)
        try:
            found = await driver.fetch("SELECT version_num FROM alembic_version", ())
        except RetryLater:
            await driver.close()
            raise
        except Unavailable as cause:
            await driver.close()
            raise ConfigError("The database holds no DECNET schema", "Run `decnet-master init`.") from cause
        except BaseException:
            await driver.close()
            raise
        if found != [(HEAD,)]:
            await driver.close()
            raise ConfigError(
                f"The database's schema is {found[0][0] if found else 'none'}, this release's is {HEAD}",
                "Run `decnet-master init`; if the schema is the newer one, install the release that made it.",
            )
        return cls(driver)

    async def close(self) -> None:
        """Close all connections."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def active(self, callers: Collection[Caller]) -> set[Caller]:
        """Tell which of the callers may talk to us now: their host is active, and the certificate is one that we
        issued to it and that no decommissioning revoked. One query, however many they are.

        Raises:
            Unavailable, RetryLater: the database does not answer.
        """  # noqa: D205 -- one sentence
        found = await self._driver.among(_ACTIVE, sorted({fingerprint for _, fingerprint in callers}))
        return {(host, fingerprint) for host, fingerprint in found} & set(callers)

    async def position(self) -> tuple[int, int]:
        """Tell up to which segment and offset of the journal the ingester has stored.

        Raises:
            Unavailable, RetryLater: the database does not answer.
        """
        found = await self._driver.fetch('SELECT segment, "offset" FROM ingest_position', ())
        return (int(found[0][0]), int(found[0][1])) if found else (0, 0)

    async def durable_offsets(self) -> dict[tuple[str, str], int]:
        """Tell up to where the streams of each (host, stream) were durable when that was last reported.

        Raises:
            Unavailable, RetryLater: the database does not answer.
        """
        rows = await self._driver.fetch("SELECT host, stream, durable_offset FROM shipping_streams", ())
        return {(host, stream): int(offset) for host, stream, offset in rows}

    async def begin(self, state: ListenerState) -> None:
        """Say that this listener has started: nobody is connected to it yet.

        Raises:
            Unavailable, RetryLater: the database does not answer.
        """
        now = micros(state.started_at)
        await self._driver.write([(_NOBODY, [(now,)]), (_LISTENER, [_values(state, id=1)])])

    async def report(
        self, workers: Sequence[WorkerReport], streams: Sequence[StreamReport], state: ListenerState
    ) -> None:
        """Write a report, all or nothing.

        Raises:
            Unavailable, RetryLater: the database does not answer. Whether it was written is not known.
        """
        statements = [(_LISTENER, [_values(state, id=1)])]
        if workers:
            statements.append((_WORKERS, [_values(worker) for worker in workers]))
        if streams:
            statements.append((_STREAMS, [_values(stream) for stream in streams]))
            hosts = sorted({stream.host for stream in streams})
            statements.append((_FORGET, [(host, host, STREAMS_PER_HOST) for host in hosts]))
        await self._driver.write(statements)


_ACTIVE = (
    "SELECT c.host, c.fingerprint FROM certificates c JOIN hosts h ON h.name = c.host "
    "WHERE h.status = 'active' AND c.revoked_at IS NULL AND c.fingerprint IN ({asked})"
)
_NOBODY = "UPDATE shipping_workers SET connected = FALSE, changed_at = $1 WHERE connected"
_FORGET = (
    "DELETE FROM shipping_streams WHERE host = $1 AND stream NOT IN "
    "(SELECT stream FROM shipping_streams WHERE host = $2 ORDER BY heard_at DESC, stream LIMIT $3)"
)


def _upsert(table: str, keys: Sequence[str], columns: Sequence[str]) -> str:
    def change(column: str) -> str:
        if column in ADDED:
            return f"{column} = {table}.{column} + excluded.{column}"
        if column in {"line_at", "acked_at", "stream"}:  # none of it in this report does not undo the last one's
            return f"{column} = COALESCE(excluded.{column}, {table}.{column})"
        return f"{column} = excluded.{column}"

    numbers = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    changes = ", ".join(change(column) for column in columns if column not in keys)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({numbers}) "  # noqa: S608 -- our own names
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"
    )


def _columns(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


_WORKERS = _upsert("shipping_workers", ("host",), _columns(WorkerReport))
_STREAMS = _upsert("shipping_streams", ("host", "stream"), _columns(StreamReport))
_LISTENER = _upsert("shipping_listener", ("id",), (*_columns(ListenerState), "id"))


def _values(row: WorkerReport | StreamReport | ListenerState, **more: int) -> tuple[object, ...]:
    values = [getattr(row, name) for name in _columns(type(row))]
    return *(micros(value) if isinstance(value, datetime) else value for value in values), *more.values()
