"""What the controller hears from its workers, and what it could not repair there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, empty: the controller fills them with its next heartbeats."""
    op.create_table(
        "worker_heartbeats",
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("asked_at", sa.BigInteger, nullable=False),
        sa.Column("answered_at", sa.BigInteger),
        sa.Column("misses", sa.Integer, nullable=False),
        sa.Column("unreachable_since", sa.BigInteger),
        sa.Column("error", sa.Text),
        sa.Column("generation", sa.BigInteger),
        sa.Column("engine", sa.Text),
        sa.Column("taps", sa.Text),
        sa.Column("drift", sa.Text),
        sa.PrimaryKeyConstraint("host", name="pk_worker_heartbeats"),
    )
    op.create_table(
        "worker_repairs",
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("alike", sa.Integer, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("tried_at", sa.BigInteger, nullable=False),
        sa.Column("next_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("host", name="pk_worker_repairs"),
    )


def downgrade() -> None:
    """Take the tables away."""
    op.drop_table("worker_repairs")
    op.drop_table("worker_heartbeats")
