"""Operators who steer from elsewhere, and the certificates that they were given."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, empty: nobody steers from elsewhere until somebody is let in."""
    op.create_table(
        "operators",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("revoked_by", sa.Text),
        sa.PrimaryKeyConstraint("name", name="pk_operators"),
    )
    op.create_table(
        "operator_certificates",
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("operator", sa.Text, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("seen_at", sa.BigInteger),
        sa.Column("serial", sa.Text, nullable=False),
        sa.Column("key_digest", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("pem", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_operator_certificates"),
        sa.ForeignKeyConstraint(["operator"], ["operators.name"], name="fk_operator_certificates_operator"),
    )
    op.create_index("ix_operator_certificates_operator", "operator_certificates", ["operator"])
    op.create_index("ix_operator_certificates_key_digest", "operator_certificates", ["key_digest"])


def downgrade() -> None:
    """Take the tables away, and with them who was refused: a release without operators lets none in."""
    op.drop_index("ix_operator_certificates_key_digest", "operator_certificates")
    op.drop_index("ix_operator_certificates_operator", "operator_certificates")
    op.drop_table("operator_certificates")
    op.drop_table("operators")
