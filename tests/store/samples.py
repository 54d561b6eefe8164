"""Values that the store's tests share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from decnet_core.events import Event, Trust
from decnet_master.store import IssuedCertificate, NewEvent, Redemption, Store

NOW = datetime(2026, 11, 23, 12, 30, 15, 123456, tzinfo=UTC)
LATER = NOW + timedelta(minutes=30)

HOSTILE_TEXTS = (
    "",
    "\0",
    "a\0b\0",
    "\udc80\udcff",  # bytes that were no UTF-8
    "\ud83d\ude00",  # two lone surrogates that look like a pair
    "\x1a0000",  # what a stored NUL looks like
    "\x1a\x1a\x1a001a",
    "one\nINSERT INTO events\r\ntwo\u2028three\x85four\x0bfive",
    "'; DROP TABLE events; --",
    '{"fields": "\\u0000"}',
    "\\u0000\\x00",
    "\N{PILE OF POO}\N{RIGHT-TO-LEFT OVERRIDE}\ufeff\uffff",
    "\x1b[2J\x07",
    "x" * (1 << 16),
    "\0" * (1 << 16),
    "\udcfe" * (1 << 16),
)


def an_event(number: int = 1, **changes: Any) -> Event:
    values: dict[str, Any] = {
        "at": NOW + timedelta(seconds=number),
        "decky": "web-1",
        "service": "ssh",
        "event_type": "guest.line",
        "trust": Trust.GUEST,
        "source": "container",
        "cursor": str(number),
        "text": f"line {number}",
    }
    return Event(**{**values, **changes})


def new(number: int = 1, **changes: Any) -> NewEvent:
    return NewEvent(an_event(number, **changes), "worker-1", NOW)


def redemption(reply: str = "{}", fingerprint: str = "f" * 64) -> Redemption:
    certificate = IssuedCertificate(fingerprint, "agent@w1", LATER)
    return Redemption(reply, "192.0.2.1", 8765, 8766, "0.1.0", (certificate,))


async def enrol(store: Store, name: str, token_id: str = "a" * 16) -> None:
    await store.hosts.create(name, token_id, "hash", LATER, NOW)
