"""The tables that are sums of `events`: attackers, sessions, credentials.

They are the sums of the events up to `ingest_position.derived_seq`, which is the newest one: they are written in the
transaction that stores the events (`store.derived`), so they agree with them at every moment. They can be made anew
from them (`decnet-master db rebuild`); until that has come to the newest event they are behind (`store.derivation`).
Each column says in its `info` how a value that is there and one that comes are merged: "min", "max", "sum", or "first",
the one that is there unless it is NULL.

- `attackers`: one row an address.
- `attacker_deckies`: the same sums for each service of each decky that it touched.
- `sessions`: one row a session of a decky; `id` is a digest of worker, decky and session, for a session may be named by
  text of any length. `opened_at` and `closed_at` are NULL until the event that says so.
- `credentials`: one row for each (kind, user, secret), `id` a digest of the three uncut. `accepted` counts the logins
  that succeeded with it.
- `event_types`: how many events of each type of the catalogue there are; what a newer worker calls its own is `other`.
- `credential_uses`: where each was used and by whom, which is what tells reuse. An unknown address is ''.

`received_at` is when the master had the newest event of the row, by its own clock: retention goes by it.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, Table, Text

from decnet_master.store.schema import WORD, metadata

DERIVED_VERSION = 2
"""Of what is derived and how. A release that derives something else raises it, and its migration derives anew."""


def _key(name: str) -> Column[str]:
    return Column(name, WORD, primary_key=True)


def _digest(name: str) -> Column[bytes]:
    return Column(name, LargeBinary, primary_key=True)


def _told(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, Text, nullable=nullable, info={"merge": "first"})


def _number(name: str, merge: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable, info={"merge": merge})


def _times() -> tuple[Column[int], ...]:
    return _number("first_at", "min"), _number("last_at", "max"), _number("received_at", "max")


def _sums(*names: str) -> tuple[Column[int], ...]:
    return tuple(_number(name, "sum") for name in names)


_DEEDS = ("events", "connections", "logins_failed", "logins_succeeded", "credentials", "commands", "files")

# Their keys are what they are looked up by: SQLite keeps such a table in the order of its key, without a second tree.
attackers = Table("attackers", metadata, _key("src_ip"), *_times(), *_sums(*_DEEDS), sqlite_with_rowid=False)

attacker_deckies = Table(
    "attacker_deckies",
    metadata,
    *map(_key, ("src_ip", "worker", "decky", "service")),
    *_times(),
    *_sums(*_DEEDS),
    sqlite_with_rowid=False,
)

sessions = Table(
    "sessions",
    metadata,
    _digest("id"),
    *map(_told, ("worker", "decky", "service", "session")),
    _told("src_ip", nullable=True),
    _told("user", nullable=True),
    _number("opened_at", "min", nullable=True),
    _number("closed_at", "max", nullable=True),
    *_times(),
    *_sums("events", "credentials", "commands", "files"),
    sqlite_with_rowid=False,
)

credentials = Table(
    "credentials",
    metadata,
    _digest("id"),
    *map(_told, ("kind", "user", "secret")),
    *_times(),
    *_sums("count", "accepted"),
    sqlite_with_rowid=False,
)

credential_uses = Table(
    "credential_uses",
    metadata,
    _digest("credential"),
    *map(_key, ("src_ip", "worker", "decky")),
    *_times(),
    *_sums("count", "accepted"),
    sqlite_with_rowid=False,
)

event_types = Table(
    "event_types",
    metadata,
    _key("event_type"),
    _number("received_at", "max"),
    *_sums("events"),
    sqlite_with_rowid=False,
)

DERIVED = (attackers, attacker_deckies, sessions, credentials, credential_uses, event_types)
"""All of them; a tally has a method of the same name for each."""
