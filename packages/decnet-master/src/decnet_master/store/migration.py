"""Bring a database's schema to what this release needs.

The migrations lie beside this module (`migrations/versions/`) and travel in the wheel; no alembic.ini is read. A
migration is one transaction on both engines: it happened, or nothing did. Two programs that migrate at the same moment
do it one after the other (SQLite's write lock, an advisory lock on PostgreSQL).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import text, update
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_master.store.derivation import Derivation, begin
from decnet_master.store.derived_tables import DERIVED_VERSION
from decnet_master.store.engine import Database, create_file, database_url
from decnet_master.store.revision import HEAD
from decnet_master.store.schema import ingest_position

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"

MIGRATION_SECS = 3600.0
"""A step may have to rewrite every event that there is."""

# Any number that is the same for all who migrate: "decnet" in ASCII.
_ADVISORY_LOCK = 0x6465636E6574

log = structlog.get_logger()


async def migrate(url: str) -> None:
    """Create the schema, or update it to this release's; a no-op when it is there already.

    Args:
        url: as for `Store.open`. SQLite's file is created, readable by this user alone.

    Raises:
        ConfigError: not such a URL.
        Unavailable, RetryLater: the database does not answer, or its file cannot be created.
    """
    await walk(url, HEAD, derive=True)
    log.info("database.migrated", revision=HEAD)


async def walk(url: str, revision: str, *, derive: bool = False) -> None:
    """Go to a revision, up or down; `base` is the empty database. Down loses data: for tests and for emergencies.

    Args:
        url: see `migrate`.
        revision: where to.
        derive: whether to make anew what is derived from events, unless it is as this release derives it; at the
            newest revision alone. That is begun in the same transaction; if it is interrupted, the ingester goes on.
    """
    parsed = database_url(url)
    create_file(parsed)
    database = Database(parsed, connections=1, transaction_secs=MIGRATION_SECS)
    try:
        async with database.write() as connection:
            if not database.is_sqlite:
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
            await connection.run_sync(_walk_to(revision))
            if derive:
                await _outdate(connection, sqlite=database.is_sqlite)
        if derive and (count := await Derivation(database).catch_up()):
            log.info("derived.rebuilt", events=count)
    finally:
        await database.close()


async def _outdate(connection: AsyncConnection, *, sqlite: bool) -> None:
    # Locked by the update: an ingester that runs already stores nothing in between.
    outdated = update(ingest_position).where(ingest_position.c.derived_version != DERIVED_VERSION)
    if (await connection.execute(outdated.values(derived_version=DERIVED_VERSION))).rowcount:
        await begin(connection, sqlite=sqlite)


def alembic_config(connection: Connection | None = None) -> Config:
    """Make alembic's configuration in memory."""
    from alembic.config import Config  # noqa: PLC0415 -- 7 MB that only a migration pays

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _walk_to(revision: str) -> Callable[[Connection], None]:
    def run(connection: Connection) -> None:
        from alembic import command  # noqa: PLC0415 -- see above
        from alembic.runtime.migration import MigrationContext  # noqa: PLC0415
        from alembic.script import ScriptDirectory  # noqa: PLC0415

        config = alembic_config(connection)
        here = MigrationContext.configure(connection).get_current_revision()
        known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
        if here is not None and (revision == "base" or known.index(here) < known.index(revision)):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)

    return run
