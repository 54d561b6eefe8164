"""Merge tallies into the derived tables, and empty those.

Each table takes a load's rows in few statements: PostgreSQL a COPY into a temporary table and then, in one message for
all tables, an INSERT … SELECT from it; SQLite INSERTs with the values of many rows. What is there and what comes are
merged by the rules that the columns carry (`store.derived_tables`), in the caller's transaction.

Rows come in the order of their first key, so that neighbours in the index follow one another.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
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
    told = {table: rows for table in DERIVED if (rows := tally.rows_of(table.name))}
    if sqlite:
        for table, rows in told.items():
            await insert_rows(connection, _insert(table), rows, _merging(table, least="MIN", greatest="MAX"))
    elif told:
        raw = await raw_connection(connection)
        if not await raw.fetchval(_ARE_THERE):
            await raw.execute(_make_new())
        # Left there by a merge before, in the same transaction: asked first, as TRUNCATE makes new files, and the
        # ingester merges once. DELETE would leave the dead rows to be read again by each page of a rebuild.
        if await raw.fetchval(_are_full()):
            await raw.execute(f"TRUNCATE {', '.join(_new(table) for table in DERIVED)}")
        # asyncpg encodes a row for COPY at a tenth of what the same values cost it as arrays of parameters.
        for table, rows in told.items():
            await raw.copy_records_to_table(_new(table), records=rows)
        # Together: the server goes on from one to the next without waiting for us, who decode lines at this moment.
        await raw.execute("; ".join(_insert_new(table) for table in told))


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
    tally.add_all((record, json_object(record[_FIELDS]) if record[_TYPE] in TELLING else {}) for record in records)
    return tally


@cache
def _insert(table: Table) -> str:
    return f"INSERT INTO {table.name} ({_names(table)}) VALUES "  # noqa: S608 -- names of ours


@cache
def _insert_new(table: Table) -> str:
    merging = _merging(table, least="LEAST", greatest="GREATEST")
    return f"INSERT INTO {table.name} SELECT * FROM {_new(table)}{merging}"  # noqa: S608 -- names of ours


def _new(table: Table) -> str:
    return f"new_{table.name}"


_ARE_THERE = f"SELECT to_regclass('pg_temp.{_new(DERIVED[-1])}') IS NOT NULL"


@cache
def _make_new() -> str:
    return "; ".join(
        f"CREATE TEMP TABLE IF NOT EXISTS {_new(table)} (LIKE {table.name}) ON COMMIT DELETE ROWS" for table in DERIVED
    )


@cache
def _are_full() -> str:
    return f"SELECT {' OR '.join(f'EXISTS (SELECT FROM {_new(table)})' for table in DERIVED)}"  # noqa: S608 -- as above


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
