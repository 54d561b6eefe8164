"""Connections: how each engine is set up, how a transaction begins and ends, and what its failures mean to us.

Durability. The journal may be deleted once its rows are committed, so a commit must survive a power cut. SQLite runs
in WAL with synchronous=FULL: NORMAL keeps the file whole but may lose the last commits, and FULL was measured to cost
nothing at a thousand rows a batch. On PostgreSQL synchronous_commit is switched on for our sessions, whatever the
server's default says.

Transactions. `read` and `write` give one transaction each. On SQLite a write takes the lock at its beginning (BEGIN
IMMEDIATE): one that reads first and writes then could otherwise fail in the middle, because somebody else wrote since,
and no waiting helps there. PostgreSQL runs READ COMMITTED; rooms that read before they write lock the row.

Everything is bounded: pool size, the wait for a connection, for a lock, for a statement and for a transaction as a
whole. What a database does not answer in time, or refuses because it is away, is `RetryLater`; a wrong password or a
missing database does not mend itself and is `Unavailable`. No message quotes a URL's password or a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from decnet_core.errors import ConfigError, DecnetError, LocalProtocolError, RetryLater, Unavailable

CONNECTIONS = 5
"""Per process. The API's hot reads collapse into few; five processes stay far under PostgreSQL's default of 100."""
CONNECT_SECS = 10.0
POOL_WAIT_SECS = 10.0
LOCK_WAIT_SECS = 10.0
"""A batch of 50,000 rows, the largest, holds SQLite's one write lock for about a second."""
TRANSACTION_SECS = 30.0
CACHE_KIB = 2_000
"""Of SQLite's pages for each connection: its own default."""

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}

_WRITES = "decnet_writes"

# SQLSTATE classes and codes after which the same statement may work (PostgreSQL, appendix A): connection exceptions,
# serialisation and deadlock, resources, operator intervention and timeouts, system errors; and a lock not available.
_PASSING_SQLSTATES = ("08", "40", "53", "57", "58", "55P03")

# Those after which it never will, because of what it says: cardinality, data, integrity constraints (by a bare driver;
# SQLAlchemy's own are left to the room that wrote), and what is larger than the engine takes.
_REFUSING_SQLSTATES = ("21", "22", "23", "44", "54")
_REFUSING_SQLITE = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH})


def database_url(text: str) -> URL:
    """Read a database's URL: `sqlite:///path` or `postgresql://user@host/name`, with or without our driver's name.

    Raises:
        ConfigError: another engine, or no URL.
    """
    advice = "Set database-url to sqlite:////absolute/path or postgresql://user:password@host/name."
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigError("The database's URL cannot be read", advice) from None  # its text may hold a password
    driver = _DRIVERS.get(url.drivername)
    if driver is None or (driver.startswith("sqlite") and url.database in {None, "", ":memory:"}):
        raise ConfigError(f"{url.render_as_string(hide_password=True)} is no database that DECNET can use", advice)
    return url.set(drivername=driver)


def is_sqlite(url: URL) -> bool:
    """Tell the embedded engine from the server."""
    return url.get_backend_name() == "sqlite"


def require_file(url: URL) -> None:
    """Refuse to open an SQLite file that is not there: the driver would make one, empty and readable by others.

    Raises:
        ConfigError: it does not exist, or this user may not look.
    """
    try:
        if is_sqlite(url) and not Path(url.database or "").is_file():
            raise ConfigError(f"The database {url.database} does not exist", "Run `decnet-master init`.")
    except OSError as cause:
        raise ConfigError(
            f"Cannot read the database {url.database}: {cause.strerror}",
            "Run as the user who runs decnet-master, or as root.",
        ) from cause


def create_file(url: URL) -> None:
    """Create SQLite's file, readable by us alone (it holds password hashes); nothing for PostgreSQL.

    It is in WAL mode when it appears: whoever changes the mode needs the file alone, and SQLite does not wait for that.

    Raises:
        Unavailable: the folder is missing or may not be written.
    """
    if not is_sqlite(url):
        return
    path = Path(url.database or "")
    if path.exists():
        return
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        try:
            with contextlib.closing(sqlite3.connect(fresh)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            with contextlib.suppress(FileExistsError):  # somebody was faster
                path.hardlink_to(fresh)
        finally:
            fresh.unlink()
    except OSError as cause:
        raise Unavailable(
            f"Cannot create the database {path}: {cause.strerror}", "Make its folder writable for this user."
        ) from cause
    except sqlite3.Error as cause:
        raise Unavailable(f"Cannot create the database {path}: {cause}", "Look at the disk's free space.") from cause


class Database:
    """One pool of connections, and the two ways to use it. Close it always."""

    def __init__(
        self,
        url: URL,
        connections: int = CONNECTIONS,
        transaction_secs: float = TRANSACTION_SECS,
        cache_kib: int = CACHE_KIB,
    ) -> None:
        self.url = url
        self._transaction_secs = transaction_secs
        self._failures = _failures(url)
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=POOL_WAIT_SECS,
            pool_pre_ping=not is_sqlite(url),  # a server that restarted leaves dead connections in the pool
            hide_parameters=True,  # an error's text must not carry an attacker's words or a hash
            connect_args=_sqlite_arguments() if is_sqlite(url) else _postgres_arguments(transaction_secs),
        )
        if is_sqlite(url):
            event.listen(self.engine.sync_engine, "connect", functools.partial(_set_up_sqlite, cache_kib))
            event.listen(self.engine.sync_engine, "begin", _begin_sqlite)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded engine."""
        return is_sqlite(self.url)

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Run one transaction that only reads.

        Raises:
            Unavailable, RetryLater: the database does not answer.
        """
        async with self._transaction(writes=False) as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Run one transaction that may write: committed at the end of the block, rolled back by any error.

        Raises:
            Unavailable, RetryLater: the database does not answer.
        """
        async with self._transaction(writes=True) as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self, *, writes: bool) -> AsyncIterator[AsyncConnection]:
        try:
            async with asyncio.timeout(self._transaction_secs), self.engine.connect() as connection:
                await connection.execution_options(**{_WRITES: writes})
                async with connection.begin():
                    yield connection
        except IntegrityError:
            raise  # a constraint said no: the room that wrote knows what that means
        except self._failures as cause:
            raise failure(cause, self.url) from cause


class DatabaseAway(RetryLater):
    """The database does not answer now. The message names it, so it is for the log and the operator alone."""


class DatabaseUnusable(Unavailable):
    """The database cannot be used as it is. The message names it, so it is for the log and the operator alone."""


def failure(cause: BaseException, url: URL) -> DecnetError:
    """Say what a driver's failure means: come again, look into it, or our own bug."""
    name = url.render_as_string(hide_password=True)
    # In full, a wrapped driver error would quote the statement; the driver's own words do not.
    origin = cause.orig if isinstance(cause, DBAPIError) and cause.orig is not None else cause
    words = str(origin).splitlines()[0][:200] if str(origin) else type(origin).__name__
    if _is_full(origin):
        return DatabaseAway(
            f"The disk of the database {name} is full", "Free space there; what waits to be stored is kept meanwhile."
        )
    if _passes(cause, origin):
        return DatabaseAway(
            f"The database {name} does not answer: {words}", "Start it, or wait until it is free again."
        )
    if _is_ours(cause, origin):  # the words may quote the value
        kind = getattr(origin, "sqlstate", None) or getattr(origin, "sqlite_errorname", None)
        what = type(origin).__name__ if kind is None else f"{type(origin).__name__}, {kind}"
        return LocalProtocolError(f"The database refuses a value that we wrote: {what}")
    return DatabaseUnusable(
        f"The database {name} cannot be used: {words}", "Correct database-url, or mend the database."
    )


def _passes(cause: BaseException, origin: BaseException) -> bool:
    state = getattr(origin, "sqlstate", None)
    if isinstance(state, str):
        return state.startswith(_PASSING_SQLSTATES)
    if isinstance(origin, sqlite3.Error):
        code = getattr(origin, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
        return code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
    if isinstance(cause, DBAPIError):
        return cause.connection_invalidated
    return isinstance(cause, OSError | TimeoutError | PoolTimeout) or _died_in_an_answer(cause)


def _died_in_an_answer(cause: BaseException) -> bool:
    """Tell whether asyncpg lost its place in a connection, as it does in one that ends while it is being cleaned up."""
    # By its name: importing asyncpg costs 4 MB that a process on SQLite never pays.
    return any(kind.__name__ == "InternalClientError" for kind in type(cause).__mro__)


def _is_full(origin: BaseException) -> bool:
    code = getattr(origin, "sqlite_errorcode", 0) & 0xFF
    return code == sqlite3.SQLITE_FULL or getattr(origin, "sqlstate", None) == "53100"  # disk_full


def _is_ours(cause: BaseException, origin: BaseException) -> bool:
    state = getattr(origin, "sqlstate", None)
    return (
        isinstance(cause, DataError | OverflowError | UnicodeError)
        or getattr(origin, "sqlite_errorcode", 0) & 0xFF in _REFUSING_SQLITE
        or (isinstance(state, str) and state.startswith(_REFUSING_SQLSTATES))
    )


def _failures(url: URL) -> tuple[type[Exception], ...]:
    """List what a connection can raise; the driver's own errors come unwrapped while it connects."""
    # A number or a text that SQLite's driver cannot hand over is a bare OverflowError or UnicodeError.
    own: tuple[type[Exception], ...] = (DBAPIError, PoolTimeout, TimeoutError, OSError, OverflowError, UnicodeError)
    if is_sqlite(url):
        return (*own, sqlite3.Error)
    asyncpg: Any = importlib.import_module("asyncpg")  # 4 MB that a process on SQLite never pays
    return (*own, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class _SqliteConnection(sqlite3.Connection):
    """Lets go of its lock when it is closed.

    A task that is cancelled in the middle of a statement has its connection closed, but as long as its traceback keeps
    the cursor alive SQLite only promises to close, and the write lock stays held (sqlite3_close_v2's "zombie").
    """

    def close(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # it is closed already: the pool may ask twice
            if self.in_transaction:
                self.rollback()
        super().close()


def _sqlite_arguments() -> dict[str, Any]:
    # isolation_level None: the driver begins nothing by itself, `_begin_sqlite` does.
    return {"isolation_level": None, "timeout": LOCK_WAIT_SECS, "factory": _SqliteConnection}


def _postgres_arguments(transaction_secs: float) -> dict[str, Any]:
    return {
        "timeout": CONNECT_SECS,
        "command_timeout": transaction_secs,
        "server_settings": {
            "application_name": "decnet-master",
            "statement_timeout": f"{transaction_secs:.0f}s",
            "lock_timeout": f"{LOCK_WAIT_SECS:.0f}s",
            "idle_in_transaction_session_timeout": f"{2 * transaction_secs:.0f}s",
            "synchronous_commit": "on",
            "jit": "off",  # it costs more than it saves on queries of a few rows
        },
    }


def _set_up_sqlite(cache_kib: int, connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"cache_size=-{cache_kib}"):
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
