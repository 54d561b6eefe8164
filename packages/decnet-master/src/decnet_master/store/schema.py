"""The tables: one schema for SQLite and PostgreSQL.

Representation, the same on both engines:

- A time is a BIGINT of microseconds since 1970 UTC (`_at`). It sorts, compares and pages the same everywhere, loses
  nothing, and needs no time zone of a session. `decnet_master.store.values` converts.
- Text that an attacker may have written (every text column of `events`) goes through `values.storable`, because
  PostgreSQL's text refuses NUL and neither engine can hold a lone surrogate.
- JSON is TEXT, written and read by us; the engines' JSON types refuse escapes that attackers can write.
- Names of constraints follow one convention, so that a migration can name what it changes.

`events.seq` is the order of commits: one ingester writes at a time (the row of `ingest_position` is its lock, and
holds the last number), so a reader who has seen `seq` n never misses a smaller one. The numbers of a day are a range,
see `store.slices`; on PostgreSQL the table is partitioned by these ranges.

Indexes serve paging: each filter column is followed by `seq`. Columns that are indexed are bounded before they come
here (PostgreSQL refuses an index entry above 2,704 bytes); the ingester sees to that.

The migrations hold the same tables in alembic's words; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only in a column whose type is exactly INTEGER (64 bits there).
_COUNTED = BigInteger().with_variant(Integer, "sqlite")

WORD = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that an index compares, by its bytes: as SQLite does, and at a fraction of what a language's order costs."""

hosts = Table(
    "hosts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("address", Text),
    Column("agent_port", Integer),
    Column("updater_port", Integer),
    Column("version", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("enrolled_at", BigInteger),
    Column("seen_at", BigInteger),
    Column("labels", Text),
    Column("capacity", Integer),
    CheckConstraint("status IN ('enrolled', 'active', 'decommissioned')", name="status"),
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("secret_hash", Text, nullable=False),
    Column("host", Text, ForeignKey("hosts.name"), nullable=False, index=True),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
    Column("csr_digest", Text),
    Column("reply", Text),
    Column("created_at", BigInteger),
    Column("revoked_at", BigInteger),
)

certificates = Table(
    "certificates",
    metadata,
    Column("fingerprint", Text, primary_key=True),
    Column("identity", Text, nullable=False),
    Column("host", Text, ForeignKey("hosts.name"), nullable=False, index=True),
    Column("issued_at", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("serial", Text),
    Column("key_digest", Text),
    Column("issuer", Text),
    Column("pem", Text),
    Column("seen_at", BigInteger),
    Index(None, "identity", "key_digest"),
)

generations = Table(
    "generations",
    metadata,
    Column("number", _COUNTED, Identity(), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("placed", Boolean, nullable=False),
    sqlite_autoincrement=True,  # never a number again, also after a row was deleted
)

deckies = Table(
    "deckies",
    metadata,
    Column("host", Text, ForeignKey("hosts.name"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("desired", Boolean, nullable=False),
    Column("spec", Text, nullable=False),
    Column("phase", Text),
    Column("ip", Text),
    Column("mac", Text),
    Column("container", Text),
    Column("error", Text),
    Column("observed_generation", BigInteger),
    Column("moved_from", Text),
    Column("moved_because", Text),
    Column("contested_by", Text),
    Column("sometimes", Text),
    Column("mutated_at", BigInteger),
    Index(None, "name"),
)

events = Table(
    "events",
    metadata,
    Column("seq", _COUNTED, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("worker", Text, nullable=False),
    Column("decky", WORD, nullable=False),
    Column("service", Text, nullable=False),
    Column("event_type", WORD, nullable=False),
    Column("trust", Text, nullable=False),
    Column("src_ip", WORD),
    Column("src_port", Integer),
    Column("dst_ip", Text),
    Column("dst_port", Integer),
    Column("session", Text),
    Column("pid", BigInteger),
    Column("fields", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("cursor", Text, nullable=False),
    Index(None, "decky", "seq"),
    Index(None, "src_ip", "seq"),
    Index(None, "event_type", "seq"),
    postgresql_partition_by="RANGE (seq)",
)

event_days = Table(
    "event_days",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("day", BigInteger, nullable=False),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("seq", _COUNTED, Identity(), primary_key=True),
    Column("identity", Text, nullable=False),
    Column("stream", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

ingest_position = Table(
    "ingest_position",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("segment", BigInteger, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("derived_version", Integer, nullable=False),
    Column("derived_seq", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

users = Table(
    "users",
    metadata,
    Column("name", Text, primary_key=True),
    Column("password_hash", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("must_change_password", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("password_changed_at", BigInteger, nullable=False),
    CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="role"),
)
