"""Drop the index of the events' times: nothing asks by `at`, and each row paid for it.

Pages, the live stream and retention go by `seq`; `at` is the worker's clock and orders nothing.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop it; on PostgreSQL from every partition."""
    op.drop_index("ix_events_at_seq", "events")


def downgrade() -> None:
    """Make it anew."""
    op.create_index("ix_events_at_seq", "events", ["at", "seq"], postgresql_using="brin")
