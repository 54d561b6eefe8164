"""Shipping as the listener reports it, and which workers are silent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, empty: the listener fills them within seconds."""
    op.create_table(
        "shipping_workers",
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("connected", sa.Boolean, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("stream", sa.Text),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("certificate_ends_at", sa.BigInteger),
        sa.Column("heard_at", sa.BigInteger, nullable=False),
        sa.Column("line_at", sa.BigInteger),
        sa.Column("acked_at", sa.BigInteger),
        sa.Column("lines", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("skips", sa.BigInteger, nullable=False),
        sa.Column("connections", sa.BigInteger, nullable=False),
        sa.Column("gaps", sa.BigInteger, nullable=False),
        sa.Column("repeats", sa.BigInteger, nullable=False),
        sa.Column("refusals", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("host", name="pk_shipping_workers"),
    )
    op.create_table(
        "shipping_streams",
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("durable_offset", sa.BigInteger, nullable=False),
        sa.Column("lines", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("skips", sa.BigInteger, nullable=False),
        sa.Column("heard_at", sa.BigInteger, nullable=False),
        sa.Column("line_at", sa.BigInteger),
        sa.Column("acked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("host", "stream", name="pk_shipping_streams"),
    )
    op.create_table(
        "shipping_listener",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("reported_at", sa.BigInteger, nullable=False),
        sa.Column("journal_segment", sa.BigInteger, nullable=False),
        sa.Column("journal_offset", sa.BigInteger, nullable=False),
        sa.Column("journal_bytes", sa.BigInteger, nullable=False),
        sa.Column("quota_bytes", sa.BigInteger, nullable=False),
        sa.Column("free_bytes", sa.BigInteger, nullable=False),
        sa.Column("min_free_bytes", sa.BigInteger, nullable=False),
        sa.Column("stalled", sa.Text),
        sa.Column("backlog_lines", sa.BigInteger, nullable=False),
        sa.Column("backlog_bytes", sa.BigInteger, nullable=False),
        sa.Column("waits_since", sa.BigInteger),
        sa.Column("connections", sa.BigInteger, nullable=False),
        sa.Column("accepted", sa.BigInteger, nullable=False),
        sa.Column("handshakes_refused", sa.BigInteger, nullable=False),
        sa.Column("refused", sa.BigInteger, nullable=False),
        sa.Column("superseded", sa.BigInteger, nullable=False),
        sa.Column("protocol_errors", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_shipping_listener"),
    )
    op.create_table(
        "worker_silences",
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("host", name="pk_worker_silences"),
    )


def downgrade() -> None:
    """Drop them; no evidence is in them."""
    for table in ("worker_silences", "shipping_listener", "shipping_streams", "shipping_workers"):
        op.drop_table(table)
