"""Say up to which event the sums reach, and count events by type.

The sums are made anew by whoever called for the migration (`store.migration`), as this release's `derived_version` is
another; so they reach to event 0 here.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_WORD = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the column and the table."""
    op.add_column("ingest_position", sa.Column("derived_seq", sa.BigInteger, nullable=False, server_default="0"))
    if op.get_context().dialect.name == "postgresql":
        op.alter_column("ingest_position", "derived_seq", server_default=None)
    op.create_table(
        "event_types",
        sa.Column("event_type", _WORD, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("event_type", name="pk_event_types"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Take them away again; a release that knows neither would miss what was not summed up yet, so it counts anew."""
    op.drop_table("event_types")
    op.drop_column("ingest_position", "derived_seq")
    op.execute("UPDATE ingest_position SET derived_version = 0")
