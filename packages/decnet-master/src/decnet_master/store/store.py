"""The store: one pool of connections and a room per noun on it."""

from __future__ import annotations

from typing import Self

from sqlalchemy import inspect, select, text
from sqlalchemy.engine import Connection

from decnet_core.errors import ConfigError
from decnet_master.store.artifacts import Artifacts
from decnet_master.store.certificates import Certificates
from decnet_master.store.derivation import Derivation
from decnet_master.store.engine import CACHE_KIB, CONNECTIONS, TRANSACTION_SECS, Database, database_url, require_file
from decnet_master.store.events import Events
from decnet_master.store.fleet import Fleet
from decnet_master.store.heartbeats import Heartbeats
from decnet_master.store.hosts import Hosts
from decnet_master.store.ingest import Ingest
from decnet_master.store.operators import Operators
from decnet_master.store.repairs import Repairs
from decnet_master.store.revision import HEAD
from decnet_master.store.schema import ingest_position
from decnet_master.store.shipping import Shipping
from decnet_master.store.silence import Silences
from decnet_master.store.slices import Slices
from decnet_master.store.tokens import Tokens
from decnet_master.store.traits import Traits
from decnet_master.store.users import Users


class Store:
    """An open database whose schema is this release's; make one with `Store.open`, and close it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.hosts = Hosts(database)
        self.certificates = Certificates(database)
        self.tokens = Tokens(database)
        self.operators = Operators(database)
        self.traits = Traits(database)
        self.fleet = Fleet(database)
        self.events = Events(database)
        self.artifacts = Artifacts(database)
        self.users = Users(database)
        self.ingest = Ingest(database)
        self.derivation = Derivation(database)
        self.slices = Slices(database)
        self.shipping = Shipping(database)
        self.silences = Silences(database)
        self.heartbeats = Heartbeats(database)
        self.repairs = Repairs(database)

    @classmethod
    async def open(
        cls,
        url: str,
        connections: int = CONNECTIONS,
        transaction_secs: float = TRANSACTION_SECS,
        cache_kib: int = CACHE_KIB,
    ) -> Self:
        """Connect and check the schema.

        Args:
            url: `sqlite:////path` or `postgresql://user:password@host/name`.
            connections: the most that are held at a time.
            transaction_secs: the longest that one may take.
            cache_kib: what a connection to SQLite may hold of the file.

        Raises:
            ConfigError: not such a URL, no such file, or the schema is not this release's.
            Unavailable, RetryLater: the database does not answer.
        """
        parsed = database_url(url)
        require_file(parsed)
        database = Database(parsed, connections, transaction_secs, cache_kib)
        try:
            async with database.read() as connection:
                revision = await connection.run_sync(_revision)
            _check_schema(revision)
        except BaseException:
            await database.close()
            raise
        return cls(database)

    async def close(self) -> None:
        """Close all connections."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def ping(self) -> None:
        """Ask the database for a sign of life: to read a table of ours, for which it must have more than a process.

        Raises:
            Unavailable, RetryLater: it gives none.
        """
        async with self._database.read() as connection:
            await connection.execute(select(ingest_position.c.id))


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _check_schema(revision: str | None) -> None:
    if revision is None:
        raise ConfigError("The database holds no DECNET schema", "Run `decnet-master init`.")
    if revision != HEAD:
        raise ConfigError(
            f"The database's schema is {revision}, this release's is {HEAD}",
            "Run `decnet-master init`; if the schema is the newer one, install the release that made it.",
        )
