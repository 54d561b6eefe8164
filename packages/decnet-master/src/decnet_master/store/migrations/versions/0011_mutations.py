"""What a decky sometimes offers (JSON), and when a mutation last changed what it does. NULL is nothing, and never."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("deckies", sa.Column("sometimes", sa.Text))
    op.add_column("deckies", sa.Column("mutated_at", sa.BigInteger))


def downgrade() -> None:
    """Take them away again."""
    op.drop_column("deckies", "mutated_at")
    op.drop_column("deckies", "sometimes")
