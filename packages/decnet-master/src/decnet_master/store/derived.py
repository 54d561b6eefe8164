"""Merge tallies into the derived tables, and empty those.

Each table takes a load's rows in few statements: PostgreSQL a COPY into a temporary table and one INSERT … SELECT from
it, SQLite INSERTs with the values of many rows. What is there and what comes are merged by the rules that the columns
carry (`store.derived_tables`), in the caller's transaction.

Rows are given in the order of their first key, so that neighbours in the index come one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Column, Table, delete, text
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_master.store.bulk import insert_rows, raw_connection
from decnet_master.store.derived_tables import DERIVED
from decnet_master.store.records import COLUMNS, Record
from decnet_master.store.tally import TELLING, Tally
from decnet_master.store.values import json_object

_TYPE, _FIELDS = COLUMNS.index("event_type"), COLUMNS.index("fields")


async def merge(connection: AsyncConnection, tally: Tally, *, sqlite: bool) -> None:
    """Add a tally to the tables, inside the caller's transaction, which may merge any number of them."""
    for table in DERIVED:
        rows = sorted(getattr(tally, table.name)(), key=itemgetter(0))
        if not rows:
            continue
        if sqlite:
            await insert_rows(connection, _insert(table), rows, _merging(table, least="MIN", greatest="MAX"))
        else:
            raw = await raw_connection(connection)
            # asyncpg encodes a row for COPY at a tenth of what the same values cost it as arrays of parameters.
            await raw.execute(
                f"CREATE TEMP TABLE IF NOT EXISTS new_{table.name} (LIKE {table.name}) ON COMMIT DELETE ROWS"
            )
            # Left there by a merge before, in the same transaction: asked first, as TRUNCATE makes a new file, and the
            # ingester merges once. DELETE would leave the dead rows to be read again by each page of a rebuild.
            if await raw.fetchval(f"SELECT EXISTS (SELECT FROM new_{table.name})"):  # noqa: S608 -- names of ours
                await raw.execute(f"TRUNCATE new_{table.name}")
            await raw.copy_records_to_table(f"new_{table.name}", records=rows)
            await raw.execute(_insert_new(table))


async def clear(connection: AsyncConnection, *, sqlite: bool) -> None:
    """Empty the tables, inside the caller's transaction; neither engine touches the rows one by one."""
    if sqlite:
        for table in DERIVED:
            await connection.execute(delete(table))
    else:
        await connection.execute(text(f"TRUNCATE {', '.join(table.name for table in DERIVED)}"))


def tally_of(records: Iterable[Record]) -> Tally:
    """Fold rows as they are stored."""
    tally = Tally()
    for record in records:
        tally.add(record, json_object(record[_FIELDS]) if record[_TYPE] in TELLING else {})
    return tally


@cache
def _insert(table: Table) -> str:
    return f"INSERT INTO {table.name} ({_names(table)}) VALUES "  # noqa: S608 -- names of ours


@cache
def _insert_new(table: Table) -> str:
    merging = _merging(table, least="LEAST", greatest="GREATEST")
    return f"INSERT INTO {table.name} SELECT * FROM new_{table.name}{merging}"  # noqa: S608 -- names of ours


def _names(table: Table) -> str:
    return ", ".join(f'"{column.name}"' for column in table.columns)


@cache
def _merging(table: Table, *, least: str, greatest: str) -> str:
    keys = ", ".join(column.name for column in table.primary_key.columns)
    changes = ", ".join(_change(table, column, least, greatest) for column in table.columns if _changes(column))
    return f" ON CONFLICT ({keys}) DO UPDATE SET {changes}"


def _changes(column: Column[Any]) -> bool:
    """Tell whether a value that comes can change the one that is there: the first one stays, unless it is NULL."""
    return bool(column.info) and (column.info["merge"] != "first" or bool(column.nullable))


def _change(table: Table, column: Column[Any], least: str, greatest: str) -> str:
    name = f'"{column.name}"'
    there, new = f"{table.name}.{name}", f"excluded.{name}"
    rule = column.info["merge"]
    if rule == "sum":
        merged = f"{there} + {new}"
    elif rule == "first":
        merged = f"coalesce({there}, {new})"
    else:
        merged = f"{least if rule == 'min' else greatest}({there}, {new})"
        if column.nullable:  # SQLite's MIN and MAX of a NULL are NULL, PostgreSQL's look past it
            merged = f"coalesce({merged}, {there}, {new})"
    return f"{name} = {merged}"
