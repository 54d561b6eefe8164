"""The two engines by their bare drivers: sqlite3 in a thread of its own, or a pool of two asyncpg connections.

For `store.doorbook`, which says why. Statements are in words that both engines understand; their parameters are
numbered in order and each stands once, so that `$1` can become SQLite's `?`.

Every answer is bounded in time. What fails is an Unavailable, RetryLater where it is known to pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from decnet_core.errors import ConfigError, RetryLater, Unavailable

ANSWER_SECS = 10.0
LOCK_WAIT_SECS = 5.0
"""Of SQLite's one write lock; the ingester's largest transaction holds it for about a second."""
CONNECTIONS = 2

T = TypeVar("T")


class Driver(Protocol):
    """What the two engines offer; every method raises Unavailable or RetryLater."""

    async def fetch(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """Ask a question."""

    async def among(self, statement: str, asked: Sequence[str]) -> list[tuple[Any, ...]]:
        """Ask about a set: `{asked}` in the statement stands for it."""

    async def write(self, statements: Sequence[tuple[str, Sequence[Sequence[object]]]]) -> None:
        """Run statements, each for its rows of parameters, in one transaction."""

    async def close(self) -> None:
        """Close all connections."""


async def connect(url: str) -> Driver:
    """Connect to what a database's URL names.

    Raises:
        ConfigError: it names nothing that DECNET can use, or a file that is not there.
        Unavailable, RetryLater: the database does not answer.
    """
    engine, _, rest = url.partition("://")
    match engine.partition("+")[0]:
        case "sqlite" if rest.startswith("/") and rest != "/:memory:":
            return await _Sqlite.open(Path(rest[1:].partition("?")[0]))
        case "postgresql" | "postgres":
            return await _Postgres.open(f"postgresql://{_in_libpq_words(rest)}")
    raise ConfigError(
        "The database's URL names no database that DECNET can use",  # it may hold a password
        "Set database-url to sqlite:////absolute/path or postgresql://user:password@host/name.",
    )


def _in_libpq_words(rest: str) -> str:
    """Name TLS as asyncpg's own URLs do; SQLAlchemy's, which the configuration holds, say `ssl` for it."""
    place, mark, query = rest.partition("?")
    return place + mark + re.sub(r"(^|&)ssl=", r"\1sslmode=", query)


class _Sqlite:
    """One connection in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="doorbook")
        self._connection: sqlite3.Connection | None = None

    @classmethod
    async def open(cls, path: Path) -> Self:
        driver = cls(path)
        try:
            await driver.fetch("SELECT 1", ())
        except BaseException:
            await driver.close()
            raise
        return driver

    async def fetch(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        async with self._answering():
            return await self._in_thread(lambda connection: connection.execute(_lite(statement), values).fetchall())

    async def among(self, statement: str, asked: Sequence[str]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for at in range(0, len(asked), _ASKED_AT_ONCE):
            piece = asked[at : at + _ASKED_AT_ONCE]
            found += await self.fetch(statement.format(asked=", ".join("?" * len(piece))), piece)
        return found

    async def write(self, statements: Sequence[tuple[str, Sequence[Sequence[object]]]]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for statement, rows in statements:
                    connection.executemany(_lite(statement), rows)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # some failures have rolled back already
                    connection.execute("ROLLBACK")
                raise

        async with self._answering():
            await self._in_thread(work)

    async def close(self) -> None:
        def work() -> None:
            if self._connection is not None:
                self._connection.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, work)
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._open()))

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        if not self._path.is_file():  # the driver would make one
            raise ConfigError(f"The database {self._path} does not exist", "Run `decnet-master init`.")
        self._connection = sqlite3.connect(
            self._path, timeout=LOCK_WAIT_SECS, isolation_level=None, check_same_thread=False
        )
        # A report that a power cut takes back is replaced by the next; the rows that must stay are not ours.
        self._connection.execute("PRAGMA synchronous=NORMAL")
        return self._connection

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(ANSWER_SECS):
                yield
        except TimeoutError:
            raise RetryLater(f"The database {self._path} does not answer", _WAIT) from None
        except (sqlite3.Error, OSError) as cause:
            code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
            passes = code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
            kind = RetryLater if passes else Unavailable
            raise kind(f"The database {self._path} cannot be used: {cause}", _WAIT) from cause


_ASKED_AT_ONCE = 500
"""SQLite takes 999 parameters or more, by how it was built."""

_WAIT = "Start it, or look into it; workers keep their lines meanwhile."


def _lite(statement: str) -> str:
    return re.sub(r"\$\d+", "?", statement)


class _Postgres:
    """A small pool."""

    def __init__(self, asyncpg: Any, pool: Any) -> None:
        self._asyncpg = asyncpg
        self._pool = pool

    @classmethod
    async def open(cls, url: str) -> Self:
        asyncpg: Any = import_module("asyncpg")  # 4 MB that a process on SQLite never pays
        driver = cls(asyncpg, None)
        async with driver._answering():
            driver._pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=CONNECTIONS,
                timeout=ANSWER_SECS,
                command_timeout=ANSWER_SECS,
                server_settings={"application_name": "decnet-master listener", "jit": "off"},
            )
        return driver

    async def fetch(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        async with self._answering():
            return [tuple(row) for row in await self._pool.fetch(statement, *values)]

    async def among(self, statement: str, asked: Sequence[str]) -> list[tuple[Any, ...]]:
        return await self.fetch(statement.format(asked="SELECT unnest($1::text[])"), (list(asked),))

    async def write(self, statements: Sequence[tuple[str, Sequence[Sequence[object]]]]) -> None:
        async with self._answering(), self._pool.acquire() as connection, connection.transaction():
            for statement, rows in statements:
                await connection.executemany(statement, rows)

    async def close(self) -> None:
        try:
            async with asyncio.timeout(LOCK_WAIT_SECS):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(ANSWER_SECS):
                yield
        except (TimeoutError, OSError) as cause:
            raise RetryLater(f"The database does not answer: {type(cause).__name__}", _WAIT) from cause
        except self._asyncpg.InternalClientError as cause:  # a connection that died in the middle of an answer
            raise RetryLater(f"The database does not answer: {type(cause).__name__}", _WAIT) from cause
        except (self._asyncpg.PostgresError, self._asyncpg.InterfaceError) as cause:
            state = getattr(cause, "sqlstate", None) or "08000"  # the driver's own: the connection is gone
            kind = RetryLater if state.startswith(("08", "40", "53", "55P03", "57", "58")) else Unavailable
            raise kind(f"The database cannot be used: {type(cause).__name__}", _WAIT) from cause
