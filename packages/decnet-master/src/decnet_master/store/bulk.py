"""Put many rows into a table at once, past SQLAlchemy, whose own INSERT binds parameters row by row.

PostgreSQL takes rows by COPY or as arrays on the driver's connection. SQLite takes them as one statement with the
values of many rows: its driver lets go of the interpreter for each statement that it steps through, and thousands
of small ones would wait for it thousands of times while another thread decodes the next lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

_CHUNKS = (512, 64, 8, 1)
"""Rows a statement, few sizes so that each is compiled once. 512 rows of 19 values stay below the 32,766 parameters
that an SQLite statement may have (SQLITE_MAX_VARIABLE_NUMBER, since 3.32)."""


async def raw_connection(connection: AsyncConnection) -> Any:
    """Give the driver's own connection; it takes part in the transaction once a statement was executed in that."""
    return (await connection.get_raw_connection()).driver_connection


async def insert_rows(
    connection: AsyncConnection, insert: str, rows: Sequence[tuple[Any, ...]], merging: str = ""
) -> None:
    """Insert rows in their order into a table of SQLite.

    Args:
        connection: of SQLite.
        insert: `INSERT INTO table (columns) VALUES `.
        rows: any number, all of the same length.
        merging: an ON CONFLICT clause.
    """
    at = 0
    for size in _CHUNKS:
        while len(rows) - at >= size:
            values = tuple(chain.from_iterable(rows[at : at + size]))
            await connection.exec_driver_sql(_statement(insert, len(rows[0]), size, merging), values)
            at += size


@cache  # of the few tables and sizes
def _statement(insert: str, columns: int, rows: int, merging: str) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{insert}{', '.join([row] * rows)}{merging}"
