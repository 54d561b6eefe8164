"""The first tables: hosts and their tokens and certificates, the fleet, events, users, the ingester's position."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite numbers rows by itself only in a column whose type is exactly INTEGER.
_COUNTED = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables; the ingester starts at the journal's beginning."""
    _hosts()
    _fleet()
    _events()
    _users()


def downgrade() -> None:
    """Drop them all."""
    for table in (
        "users",
        "ingest_position",
        "dead_letters",
        "events",
        "deckies",
        "generations",
        "certificates",
        "join_tokens",
        "hosts",
    ):
        op.drop_table(table)


def _hosts() -> None:
    op.create_table(
        "hosts",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("address", sa.Text),
        sa.Column("agent_port", sa.Integer),
        sa.Column("updater_port", sa.Integer),
        sa.Column("version", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("enrolled_at", sa.BigInteger),
        sa.Column("seen_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("name", name="pk_hosts"),
        sa.CheckConstraint("status IN ('enrolled', 'active', 'decommissioned')", name=op.f("ck_hosts_status")),
    )
    op.create_table(
        "join_tokens",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger),
        sa.Column("csr_digest", sa.Text),
        sa.Column("reply", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_join_tokens"),
        sa.ForeignKeyConstraint(["host"], ["hosts.name"], name="fk_join_tokens_host"),
    )
    op.create_index("ix_join_tokens_host", "join_tokens", ["host"])
    op.create_table(
        "certificates",
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_certificates"),
        sa.ForeignKeyConstraint(["host"], ["hosts.name"], name="fk_certificates_host"),
    )
    op.create_index("ix_certificates_host", "certificates", ["host"])


def _fleet() -> None:
    op.create_table(
        "generations",
        sa.Column("number", _COUNTED, sa.Identity(), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("placed", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_generations"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "deckies",
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("desired", sa.Boolean, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("phase", sa.Text),
        sa.Column("ip", sa.Text),
        sa.Column("mac", sa.Text),
        sa.Column("container", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("observed_generation", sa.BigInteger),
        sa.PrimaryKeyConstraint("host", "name", name="pk_deckies"),
        sa.ForeignKeyConstraint(["host"], ["hosts.name"], name="fk_deckies_host"),
    )
    op.create_index("ix_deckies_name", "deckies", ["name"])


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("seq", _COUNTED, sa.Identity(), nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("decky", sa.Text, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("trust", sa.Text, nullable=False),
        sa.Column("src_ip", sa.Text),
        sa.Column("src_port", sa.Integer),
        sa.Column("dst_ip", sa.Text),
        sa.Column("dst_port", sa.Integer),
        sa.Column("session", sa.Text),
        sa.Column("pid", sa.BigInteger),
        sa.Column("fields", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("cursor", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sqlite_autoincrement=True,
    )
    for column in ("at", "decky", "src_ip", "event_type"):
        op.create_index(f"ix_events_{column}_seq", "events", [column, "seq"])
    op.create_table(
        "dead_letters",
        sa.Column("seq", _COUNTED, sa.Identity(), nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_dead_letters"),
        sqlite_autoincrement=True,
    )
    position = op.create_table(
        "ingest_position",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("segment", sa.BigInteger, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ingest_position"),
        sa.CheckConstraint("id = 1", name=op.f("ck_ingest_position_one_row")),
    )
    op.bulk_insert(position, [{"id": 1, "segment": 0, "offset": 0}])


def _users() -> None:
    op.create_table(
        "users",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("must_change_password", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("password_changed_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_users"),
        sa.CheckConstraint("role IN ('viewer', 'operator', 'admin')", name=op.f("ck_users_role")),
    )
