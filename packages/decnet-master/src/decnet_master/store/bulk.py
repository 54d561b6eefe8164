"""Put many rows into a table at once, past SQLAlchemy, whose own INSERT binds parameters row by row.

PostgreSQL takes rows by COPY or as arrays on the driver's connection. SQLite takes statements with the values of many
rows each: its driver lets go of the interpreter while it steps through one, and with thousands of small ones it would
wait thousands of times for a thread that decodes the next lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

CHUNK_ROWS = 512
"""Rows a statement; 512 of 19 values stay below the 32,766 parameters that a statement of SQLite may have
(SQLITE_MAX_VARIABLE_NUMBER, since 3.32)."""


async def raw_connection(connection: AsyncConnection) -> Any:
    """Give the driver's own connection; it takes part in the transaction once a statement was executed in that."""
    return (await connection.get_raw_connection()).driver_connection


async def insert_rows(
    connection: AsyncConnection, insert: str, rows: Sequence[tuple[Any, ...]], merging: str = ""
) -> None:
    """Insert rows in their order into a table of SQLite.

    Args:
        connection: of SQLite; has executed a statement in its transaction already.
        insert: `INSERT INTO table (columns) VALUES `.
        rows: any number, all of the same length.
        merging: an ON CONFLICT clause.
    """
    if not rows:
        return
    raw = await raw_connection(connection)
    columns = len(rows[0])
    whole = len(rows) // CHUNK_ROWS * CHUNK_ROWS
    if whole:
        chunks = [tuple(chain.from_iterable(rows[at : at + CHUNK_ROWS])) for at in range(0, whole, CHUNK_ROWS)]
        await raw.executemany(_statement(insert, columns, CHUNK_ROWS, merging), chunks)
    if whole < len(rows):
        await raw.executemany(_statement(insert, columns, 1, merging), rows[whole:])


@cache  # of the few tables and sizes
def _statement(insert: str, columns: int, rows: int, merging: str) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{insert}{', '.join([row] * rows)}{merging}"
