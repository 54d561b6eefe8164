"""A tally's rows are made once, and anew when something was added since."""

from __future__ import annotations

from datetime import UTC, datetime

from decnet_core.events import Event, EventType, Trust
from decnet_master.store import Load, NewEvent
from decnet_master.store.tally import Tally

NOW = datetime(2026, 11, 23, 12, 30, 15, 123456, tzinfo=UTC)


def attempt(number: int) -> NewEvent:
    event = Event(
        at=NOW,
        decky="web-1",
        service="ssh",
        event_type=EventType.CREDENTIAL_TRIED,
        trust=Trust.SENSOR,
        source="tap/1",
        cursor=str(number),
        src_ip=f"192.0.2.{9 - number}",
        session="s",
        fields={"user": "root", "password": f"p{number}"},
    )
    return NewEvent(event, "worker-1", NOW)


def test_rows_are_those_of_everything_that_was_added() -> None:
    load = Load.of([attempt(0)])
    load.tally.fold()
    assert [row[0] for row in load.tally.rows_of("attackers")] == ["192.0.2.9"]
    load.add(attempt(1).record(), attempt(1).event.fields)
    assert [row[0] for row in load.tally.rows_of("attackers")] == ["192.0.2.8", "192.0.2.9"]
    assert load.tally.rows_of("attackers") is load.tally.rows_of("attackers")


def test_many_are_counted_as_one_by_one() -> None:
    rows = [(event.record(), event.event.fields) for event in map(attempt, [0, 1, 1, 2])]
    at_once, one_by_one = Tally(), Tally()
    at_once.add_all(rows)
    for record, fields in rows:
        one_by_one.add(record, fields)
    for table in ("attackers", "attacker_deckies", "sessions", "credentials", "credential_uses", "event_types"):
        assert at_once.rows_of(table) == one_by_one.rows_of(table) != []


def test_an_empty_one_has_no_rows() -> None:
    assert Tally().rows_of("sessions") == []
