from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from decnet_core.events import EventType
from decnet_master.journal.reader import START, Position
from decnet_master.store import Load, NewEvent, Store, migrate
from decnet_master.store.derivation import Derivation, Piece, begin
from decnet_master.store.derived_tables import DERIVED
from decnet_master.store.engine import Database, database_url
from decnet_master.store.migration import walk
from decnet_master.store.schema import ingest_position
from decnet_master.store.tally import NAME_CHARS, SECRET_CHARS
from decnet_master.store.values import micros, storable
from tests.store.samples import HOSTILE_TEXTS, NOW, an_event

pytestmark = pytest.mark.long

ATTEMPTS = ("credential.tried", "login.failed", "login.succeeded")

words = st.sampled_from(["root", "admin", "\0", "\x1a", "\udc80", "x" * 2000, "x" * 2000 + "y", ""])
news = st.builds(
    NewEvent,
    event=st.builds(
        an_event,
        number=st.integers(0, 50),
        decky=st.sampled_from(["web-1", "web-2"]),
        service=st.sampled_from(["ssh", "telnet"]),
        event_type=st.sampled_from([*EventType, "scan.detected"]).map(str),
        src_ip=st.sampled_from([None, "192.0.2.1", "192.0.2.2", "2001:db8::1"]),
        session=st.none() | st.sampled_from(["s1", "s2"]) | words,
        fields=st.dictionaries(st.sampled_from(["user", "password", "key", "method"]), words),
    ),
    worker=st.sampled_from(["worker-1", "worker-2"]),
    received_at=st.integers(0, 3).map(lambda minutes: NOW + timedelta(minutes=minutes)),
)

Tables = dict[str, list[tuple[Any, ...]]]


async def derived_of(url: str) -> Tables:
    """Read the tables, whatever order they are in."""
    database = Database(database_url(url), 1)
    try:
        async with database.read() as connection:
            return {
                table.name: sorted(map(tuple, await connection.execute(select(table))), key=repr) for table in DERIVED
            }
    finally:
        await database.close()


async def stored(url: str, loads: Sequence[Sequence[NewEvent]]) -> Tables:
    """Store loads one after the other and read what came of them."""
    async with await Store.open(url, connections=1) as store:
        at = await store.ingest.position()
        for rows in loads:
            after = Position(at.segment + 1, 0)
            await store.ingest.append(Load.of(rows), [], after, at)
            at = after
    return await derived_of(url)


async def rebuilt(url: str) -> Tables:
    async with await Store.open(url, connections=1) as store:
        await store.derivation.rebuild()
    return await derived_of(url)


def cut_up(rows: Sequence[NewEvent], cuts: Sequence[int]) -> list[Sequence[NewEvent]]:
    places = sorted({0, len(rows), *(cut % (len(rows) + 1) for cut in cuts)})
    return [rows[start:end] for start, end in pairwise(places)]


@settings(
    max_examples=settings().max_examples // 4,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows=st.lists(news, max_size=40), cuts=st.lists(st.integers(0, 100), max_size=6))
def test_however_events_are_cut_into_loads_the_sums_are_those_of_a_rebuild_and_of_a_plain_count(
    tmp_path: Path, sqlite_template: Path, rows: list[NewEvent], cuts: list[int]
) -> None:
    path = tmp_path / "cut.sqlite3"
    shutil.copy(sqlite_template, path)
    url = f"sqlite:///{path}"
    found = asyncio.run(stored(url, cut_up(rows, cuts)))
    assert plain(found) == counted(rows)
    assert asyncio.run(rebuilt(url)) == found
    for left in tmp_path.glob("cut.sqlite3*"):
        left.unlink()


async def test_both_engines_keep_the_same_sums(url: str) -> None:
    rows = [
        NewEvent(
            an_event(
                number,
                decky=f"d{number % 3}",
                event_type=(*ATTEMPTS, "command.run", "session.opened", "session.closed", "guest.line")[number % 7],
                src_ip=None if number % 11 == 0 else f"192.0.2.{number % 5}",
                session=None if number % 13 == 0 else HOSTILE_TEXTS[number % 13],
                fields={"user": HOSTILE_TEXTS[number % 5], "password": HOSTILE_TEXTS[number % 13]},
            ),
            f"worker-{number % 2}",
            NOW + timedelta(seconds=number % 60),
        )
        for number in range(300)
    ]
    found = await stored(url, cut_up(rows, [1, 5, 150, 280]))
    assert plain(found) == counted(rows)
    assert await rebuilt(url) == found


async def test_a_rebuild_of_many_pages_counts_every_event_once(url: str) -> None:
    rows = [
        NewEvent(
            an_event(
                number,
                event_type=(*ATTEMPTS, "command.run")[number % 4],
                # Some come back on every page, one is on the first alone, others on each page anew.
                src_ip="192.0.2.99" if number < 20 else f"192.0.2.{number % 3}",
                session=f"s{number % 5}" if number % 2 else f"once-{number}",
                fields={"user": "root", "password": f"p{number % 7}"},
            ),
            "worker-1",
            NOW + timedelta(seconds=number),
        )
        for number in range(330)
    ]
    found = await stored(url, cut_up(rows, [100, 101, 300]))
    database = Database(database_url(url), 1)
    try:
        for piece_rows in (330, 50, 7):
            assert await Derivation(database, piece_rows).rebuild() == len(rows)
            assert await derived_of(url) == found, piece_rows
    finally:
        await database.close()


def _varied(numbers: range) -> list[NewEvent]:
    return [
        NewEvent(
            an_event(
                number,
                event_type=ATTEMPTS[number % 3],
                src_ip=f"192.0.2.{number % 4}",
                session=f"s{number % 9}",
                fields={"user": f"u{number % 3}", "password": f"p{number % 7}"},
            ),
            "worker-1",
            NOW + timedelta(seconds=number),
        )
        for number in numbers
    ]


async def test_a_rebuild_goes_on_where_it_was_interrupted_while_events_are_stored(url: str) -> None:
    found = await stored(url, [_varied(range(100))])
    database, others = Database(database_url(url), 1), Database(database_url(url), 1)
    try:
        async with database.write() as connection:
            await begin(connection, sqlite=database.is_sqlite)
        assert await Derivation(database, 30).more() == Piece(30, is_last=False)
        after = await stored(url, [_varied(range(100, 150))])  # the ingester does not wait, nor count
        assert sum(row[2] for row in after["event_types"]) == 30
        pieces = [Derivation(database, 30), Derivation(others, 7)]  # somebody goes on, and somebody else as well
        counts = await asyncio.gather(*(one.catch_up() for one in pieces))
        assert sum(counts) == 120
    finally:
        await database.close()
        await others.close()
    caught_up = await derived_of(url)
    await stored(url, [_varied(range(150, 160))])  # and from here on the ingester counts again
    assert plain(await derived_of(url)) == counted(_varied(range(160)))
    assert plain(caught_up) == counted(_varied(range(150)))
    assert plain(found) == counted(_varied(range(100)))


async def test_a_rebuild_whose_events_have_expired_comes_to_its_end(store: Store, url: str) -> None:
    days = [NewEvent(an_event(n, src_ip="192.0.2.1"), "w", NOW + timedelta(days=n)) for n in range(3)]
    await stored(url, [[row] for row in days])
    database = Database(database_url(url), 1)
    try:
        async with database.write() as connection:
            await begin(connection, sqlite=database.is_sqlite)
        await store.slices.expire(micros(NOW + timedelta(days=2)))
        assert await Derivation(database, 1).catch_up() == 1
        assert not await store.derivation.is_behind()
    finally:
        await database.close()
    assert plain(await derived_of(url)) == counted(days[2:])


async def test_a_secret_is_bounded_and_still_told_from_its_like(url: str) -> None:
    secrets = ["p" * 70_000, "p" * 70_000 + "q", "p" * SECRET_CHARS]
    rows = [
        NewEvent(an_event(n, event_type="credential.tried", fields={"user": "u" * 300, "password": secret}), "w", NOW)
        for n, secret in enumerate(secrets)
    ]
    found = await stored(url, [rows])
    assert [(row[2], row[3]) for row in found["credentials"]] == [("u" * NAME_CHARS, "p" * SECRET_CHARS)] * 3
    assert len({row[0] for row in found["credentials"]}) == 3


async def test_an_update_derives_anew_what_an_older_release_stored(url: str) -> None:
    rows = [NewEvent(an_event(n, src_ip="192.0.2.1", session="s"), "w", NOW) for n in range(3)]
    found = await stored(url, [rows])
    database = Database(database_url(url), 1)
    async with database.write() as connection:
        await connection.execute(ingest_position.update().values(derived_version=0))
        await connection.execute(DERIVED[0].delete())
    await database.close()
    await migrate(url)
    assert await derived_of(url) == found
    await walk(url, "0003")  # down and up again: the events stay, the sums are made of them
    await migrate(url)
    assert await derived_of(url) == found


async def test_nothing_is_derived_of_what_was_not_stored(store: Store, url: str) -> None:
    rows = [NewEvent(an_event(1, src_ip="192.0.2.1"), "w", NOW)]
    bad = NewEvent(an_event(2, src_ip="192.0.2.9", pid=1 << 64), "w", NOW)
    await store.ingest.append(Load.of(rows), [], Position(1, 1), START)
    before = await derived_of(url)
    with pytest.raises(Exception, match="refuses a value"):
        await store.ingest.append(Load.of([bad]), [], Position(1, 2), Position(1, 1))
    assert await store.ingest.refusal(Load.of([replace(bad, event=an_event(2, src_ip="192.0.2.9"))])) is None
    assert await derived_of(url) == before


def counted(rows: Sequence[NewEvent]) -> Tables:
    """Count events the plain way, one rule at a time; rows without their digests."""
    groups: dict[str, dict[Any, list[NewEvent]]] = {table.name: defaultdict(list) for table in DERIVED}
    for row in rows:
        event = row.event
        groups["event_types"][event.event_type if event.event_type in set(EventType) else "other"].append(row)
        if event.src_ip is not None:
            groups["attackers"][event.src_ip].append(row)
            groups["attacker_deckies"][event.src_ip, row.worker, event.decky, event.service].append(row)
        if event.session is not None:
            groups["sessions"][row.worker, event.decky, event.session].append(row)
        for secret in _secrets(row):
            groups["credentials"][secret].append(row)
            groups["credential_uses"][secret, event.src_ip or "", row.worker, event.decky].append(row)
    found: Tables = {
        "attackers": [(key, *_times(some), *_deeds(some)) for key, some in groups["attackers"].items()],
        "attacker_deckies": [(*key, *_times(some), *_deeds(some)) for key, some in groups["attacker_deckies"].items()],
        "sessions": [_session(key, some) for key, some in groups["sessions"].items()],
        "credentials": [
            (kind, storable(user[:NAME_CHARS]), storable(secret[:SECRET_CHARS]), *_times(some), *_uses(some))
            for (kind, user, secret), some in groups["credentials"].items()
        ],
        "credential_uses": [(*key[1:], *_times(some), *_uses(some)) for key, some in groups["credential_uses"].items()],
        "event_types": [(key, _times(some)[2], len(some)) for key, some in groups["event_types"].items()],
    }
    return {name: sorted(some, key=repr) for name, some in found.items()}


def plain(tables: Tables) -> Tables:
    """Take the digests off."""
    return {
        name: sorted((row if name.startswith(("attacker", "event")) else row[1:] for row in rows), key=repr)
        for name, rows in tables.items()
    }


def _secrets(row: NewEvent) -> list[tuple[str, str, str]]:
    fields = row.event.fields
    if row.event.event_type not in ATTEMPTS or "user" not in fields:
        return []
    return [(kind, fields["user"], fields[kind]) for kind in ("password", "key") if kind in fields]


def _times(rows: list[NewEvent]) -> tuple[int, int, int]:
    at = [micros(row.event.at) for row in rows]
    return min(at), max(at), max(micros(row.received_at) for row in rows)


def _count(rows: list[NewEvent], event_type: str) -> int:
    return sum(row.event.event_type == event_type for row in rows)


def _deeds(rows: list[NewEvent]) -> tuple[int, ...]:
    connections, failed, succeeded, commands, files = (
        _count(rows, name)
        for name in ("connection.opened", "login.failed", "login.succeeded", "command.run", "file.captured")
    )
    credentials = sum(len(_secrets(row)) for row in rows)
    return len(rows), connections, failed, succeeded, credentials, commands, files


def _uses(rows: list[NewEvent]) -> tuple[int, int]:
    return len(rows), _count(rows, "login.succeeded")


def _session(key: tuple[str, str, str], rows: list[NewEvent]) -> tuple[Any, ...]:
    worker, decky, session = key
    naming = [row for row in rows if row.event.event_type in {"session.opened", "login.succeeded"}]
    users = [row.event.fields["user"] for row in naming if "user" in row.event.fields]
    sources = [row.event.src_ip for row in rows if row.event.src_ip is not None]
    opened = [micros(row.event.at) for row in rows if row.event.event_type == "session.opened"]
    closed = [micros(row.event.at) for row in rows if row.event.event_type == "session.closed"]
    events, _, _, _, credentials, commands, files = _deeds(rows)
    return (
        worker,
        decky,
        rows[0].event.service,
        storable(session[:NAME_CHARS]),
        sources[0] if sources else None,
        storable(users[0][:NAME_CHARS]) if users else None,
        min(opened, default=None),
        max(closed, default=None),
        *_times(rows),
        events,
        credentials,
        commands,
        files,
    )
