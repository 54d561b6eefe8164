"""Number events by days, partition them on PostgreSQL, and keep sums of them: attackers, sessions, credentials.

The rows that are there become the first slice. The sums are computed by whoever called for the migration, after it
(`store.migration`), because `derived_version` is 0 here.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COUNTED = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_FIRST_SLICE_ENDS = 1 << 36
_DAY_MICROS = 24 * 3600 * 1_000_000
_WORD = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_INDEXED = ("at", "decky", "src_ip", "event_type")
_DEEDS = ("events", "connections", "logins_failed", "logins_succeeded", "credentials", "commands", "files")


def upgrade() -> None:
    """Move the events over and make the new tables."""
    for name in ("last_seq", "derived_version"):
        kind = sa.BigInteger if name == "last_seq" else sa.Integer
        op.add_column("ingest_position", sa.Column(name, kind, nullable=False, server_default="0"))
    op.create_table(
        "event_days",
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("day", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_event_days"),
    )
    op.execute("UPDATE ingest_position SET last_seq = coalesce((SELECT max(seq) FROM events), 0)")
    op.execute(
        f"INSERT INTO event_days SELECT 0, max(received_at) / {_DAY_MICROS} * {_DAY_MICROS} FROM events "  # noqa: S608
        "HAVING count(*) > 0"
    )
    if op.get_context().dialect.name == "postgresql":
        _partition()
    else:
        _move_events(numbered=False)
    _sums()


def downgrade() -> None:
    """Take the tables away and let the database number the rows again."""
    for table in ("credential_uses", "credentials", "sessions", "attacker_deckies", "attackers"):
        op.drop_table(table)
    _move_events(numbered=True)
    op.drop_table("event_days")
    for name in ("derived_version", "last_seq"):
        op.drop_column("ingest_position", name)


def _partition() -> None:
    for column in ("last_seq", "derived_version"):
        op.alter_column("ingest_position", column, server_default=None)
    op.execute("ALTER TABLE events ALTER COLUMN seq DROP IDENTITY")
    op.rename_table("events", "events_0")
    op.execute("ALTER TABLE events_0 RENAME CONSTRAINT pk_events TO events_0_pkey")
    for column in _INDEXED:
        op.drop_index(f"ix_events_{column}_seq", "events_0")  # attaching makes them anew
    for column in _INDEXED[1:]:
        op.execute(f'ALTER TABLE events_0 ALTER COLUMN {column} TYPE text COLLATE "C"')
    _create_events(numbered=False)
    filled = op.get_bind().execute(sa.text("SELECT count(*) FROM event_days")).scalar_one()
    if filled:
        op.execute(f"ALTER TABLE events ATTACH PARTITION events_0 FOR VALUES FROM (0) TO ({_FIRST_SLICE_ENDS})")
    else:
        op.drop_table("events_0")


def _move_events(*, numbered: bool) -> None:
    """Copy the events into a table of the other make: an engine cannot change that in place."""
    for column in _INDEXED:
        op.drop_index(f"ix_events_{column}_seq", "events")
    op.rename_table("events", "events_before")
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER INDEX pk_events RENAME TO pk_events_before")
    _create_events(numbered=numbered)
    names = ", ".join(column.name for column in _event_columns(_WORD))
    # Without days the numbers have no gaps, and fit into the first slice when they come up again.
    seq = "row_number() OVER (ORDER BY seq)" if numbered else "seq"
    op.execute(f"INSERT INTO events (seq, {names}) SELECT {seq}, {names} FROM events_before ORDER BY seq")  # noqa: S608
    op.drop_table("events_before")
    if numbered and op.get_context().dialect.name == "postgresql":
        newest = "(SELECT coalesce(max(seq), 0) + 1 FROM events)"
        op.execute(f"SELECT setval(pg_get_serial_sequence('events', 'seq'), {newest}, false)")


def _create_events(*, numbered: bool) -> None:
    identity = [sa.Identity()] if numbered else []
    op.create_table(
        "events",
        sa.Column("seq", _COUNTED, *identity, nullable=False, autoincrement=numbered),
        *_event_columns(sa.Text() if numbered else _WORD),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sqlite_autoincrement=numbered,
        postgresql_partition_by=None if numbered else "RANGE (seq)",
    )
    for column in _INDEXED:
        using = "brin" if column == "at" and not numbered else "btree"
        op.create_index(f"ix_events_{column}_seq", "events", [column, "seq"], postgresql_using=using)


def _event_columns(word: sa.Text) -> list[sa.Column[Any]]:
    return [
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("decky", word, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("event_type", word, nullable=False),
        sa.Column("trust", sa.Text, nullable=False),
        sa.Column("src_ip", word),
        sa.Column("src_port", sa.Integer),
        sa.Column("dst_ip", sa.Text),
        sa.Column("dst_port", sa.Integer),
        sa.Column("session", sa.Text),
        sa.Column("pid", sa.BigInteger),
        sa.Column("fields", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("cursor", sa.Text, nullable=False),
    ]


def _sums() -> None:
    _derived("attackers", ("src_ip",), _DEEDS)
    _derived("attacker_deckies", ("src_ip", "worker", "decky", "service"), _DEEDS)
    told: list[sa.Column[Any]]
    told = [sa.Column(name, sa.Text, nullable=False) for name in ("worker", "decky", "service", "session")]
    told += [sa.Column(name, sa.Text) for name in ("src_ip", "user")]
    ends: list[sa.Column[Any]] = [sa.Column(name, sa.BigInteger) for name in ("opened_at", "closed_at")]
    _derived("sessions", (), ("events", "credentials", "commands", "files"), _digest("id"), *told, *ends)
    told = [sa.Column(name, sa.Text, nullable=False) for name in ("kind", "user", "secret")]
    _derived("credentials", (), ("count", "accepted"), _digest("id"), *told)
    _derived("credential_uses", ("src_ip", "worker", "decky"), ("count", "accepted"), _digest("credential"))


def _derived(name: str, keys: tuple[str, ...], sums: tuple[str, ...], *first: sa.Column[Any]) -> None:
    primary = [column.name for column in first[:1]] + list(keys)
    op.create_table(
        name,
        *first,
        *(sa.Column(key, _WORD, nullable=False) for key in keys),
        *(sa.Column(at, sa.BigInteger, nullable=False) for at in ("first_at", "last_at", "received_at")),
        *(sa.Column(number, sa.BigInteger, nullable=False) for number in sums),
        sa.PrimaryKeyConstraint(*primary, name=f"pk_{name}"),
        sqlite_with_rowid=False,
    )


def _digest(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.LargeBinary, nullable=False)
