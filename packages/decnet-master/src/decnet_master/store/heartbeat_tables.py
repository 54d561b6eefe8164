"""The tables of what the controller knows of its workers; `store.schema` says how values look.

Both may be lost: the next heartbeats fill them again, and what has to be repaired is found again.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table, Text

from decnet_master.store.schema import metadata

worker_heartbeats = Table(
    "worker_heartbeats",
    metadata,
    Column("host", Text, primary_key=True),
    Column("asked_at", BigInteger, nullable=False),
    Column("answered_at", BigInteger),
    Column("misses", Integer, nullable=False),
    Column("unreachable_since", BigInteger),
    Column("error", Text),
    Column("generation", BigInteger),
    Column("engine", Text),
    Column("taps", Text),
    Column("drift", Text),
)

worker_repairs = Table(
    "worker_repairs",
    metadata,
    Column("host", Text, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("alike", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("tried_at", BigInteger, nullable=False),
    Column("next_at", BigInteger, nullable=False),
)
