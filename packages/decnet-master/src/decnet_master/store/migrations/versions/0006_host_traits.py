"""What the operator says of a host: labels (JSON) and how many deckies it takes. NULL is none, and as many as any."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("hosts", sa.Column("labels", sa.Text))
    op.add_column("hosts", sa.Column("capacity", sa.Integer))


def downgrade() -> None:
    """Take them away again."""
    op.drop_column("hosts", "capacity")
    op.drop_column("hosts", "labels")
