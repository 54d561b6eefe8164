"""What a worker says of a decky's address: the one that it has not, why, and who else has the one that it has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SAID = ("moved_from", "moved_because", "contested_by")


def upgrade() -> None:
    """Add the columns; older reports did not say it."""
    for name in _SAID:
        op.add_column("deckies", sa.Column(name, sa.Text))


def downgrade() -> None:
    """Take them away again."""
    for name in reversed(_SAID):
        op.drop_column("deckies", name)
