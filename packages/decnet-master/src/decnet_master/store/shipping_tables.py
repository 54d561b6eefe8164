"""The tables of what the listener reports, and of workers that are silent; `store.schema` says how values look.

`store.doorbook` writes the first three in its own words; a test holds the two to each other.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, Table, Text

from decnet_master.store.schema import metadata

shipping_workers = Table(
    "shipping_workers",
    metadata,
    Column("host", Text, primary_key=True),
    Column("connected", Boolean, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("stream", Text),
    Column("address", Text, nullable=False),
    Column("certificate_ends_at", BigInteger),
    Column("heard_at", BigInteger, nullable=False),
    Column("line_at", BigInteger),
    Column("acked_at", BigInteger),
    Column("lines", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("skips", BigInteger, nullable=False),
    Column("connections", BigInteger, nullable=False),
    Column("gaps", BigInteger, nullable=False),
    Column("repeats", BigInteger, nullable=False),
    Column("refusals", BigInteger, nullable=False),
)

shipping_streams = Table(
    "shipping_streams",
    metadata,
    Column("host", Text, primary_key=True),
    Column("stream", Text, primary_key=True),
    Column("durable_offset", BigInteger, nullable=False),
    Column("lines", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("skips", BigInteger, nullable=False),
    Column("heard_at", BigInteger, nullable=False),
    Column("line_at", BigInteger),
    Column("acked_at", BigInteger),
)

shipping_listener = Table(
    "shipping_listener",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("started_at", BigInteger, nullable=False),
    Column("reported_at", BigInteger, nullable=False),
    Column("journal_segment", BigInteger, nullable=False),
    Column("journal_offset", BigInteger, nullable=False),
    Column("journal_bytes", BigInteger, nullable=False),
    Column("quota_bytes", BigInteger, nullable=False),
    Column("free_bytes", BigInteger, nullable=False),
    Column("min_free_bytes", BigInteger, nullable=False),
    Column("stalled", Text),
    Column("backlog_lines", BigInteger, nullable=False),
    Column("backlog_bytes", BigInteger, nullable=False),
    Column("waits_since", BigInteger),
    Column("connections", BigInteger, nullable=False),
    Column("accepted", BigInteger, nullable=False),
    Column("handshakes_refused", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("superseded", BigInteger, nullable=False),
    Column("protocol_errors", BigInteger, nullable=False),
)

worker_silences = Table(
    "worker_silences",
    metadata,
    Column("host", Text, primary_key=True),
    Column("since", BigInteger, nullable=False),
)
