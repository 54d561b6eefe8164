"""What renewing, rotating and revoking need to know of a certificate and of a token; older rows do not say it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_CERTIFICATE = (("serial", sa.Text), ("key_digest", sa.Text), ("issuer", sa.Text), ("pem", sa.Text))
_TOKEN = ("created_at", "revoked_at")


def upgrade() -> None:
    """Add the columns, and the index that a renewal asks by."""
    for name, kind in _CERTIFICATE:
        op.add_column("certificates", sa.Column(name, kind))
    op.add_column("certificates", sa.Column("seen_at", sa.BigInteger))
    op.create_index("ix_certificates_identity_key_digest", "certificates", ["identity", "key_digest"])
    for name in _TOKEN:
        op.add_column("join_tokens", sa.Column(name, sa.BigInteger))


def downgrade() -> None:
    """Take them away again."""
    for name in reversed(_TOKEN):
        op.drop_column("join_tokens", name)
    op.drop_index("ix_certificates_identity_key_digest", "certificates")
    op.drop_column("certificates", "seen_at")
    for name, _ in reversed(_CERTIFICATE):
        op.drop_column("certificates", name)
