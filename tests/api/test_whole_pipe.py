"""Hostile words through the whole pipe: console line, event log, logship, listener, journal, ingester, API, screen.

Every part is the real one, in the test's loop. What went in as so many lines comes out as so many events, of the decky
and with the trust that the collector bound, exact in JSON and harmless on a terminal.
"""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from decnet_agent.evidence.event_log import EventLog
from decnet_agent.evidence.guest_lines import MAX_TEXT_CHARS, read_line
from decnet_core.events import Event, EventType, Trust, to_syslog
from decnet_core.shipping.control import Hello, Refuse, Skip, encode_control
from decnet_core.syslog.framing import encode_frame
from decnet_core.syslog.rfc5424 import encode
from decnet_master.cli import evidence
from decnet_master.store import Store
from tests.api.test_events import streaming
from tests.ingester.journals import ingesting
from tests.shipping.place import Place
from tests.shipping.receiving import reached, receiving
from tests.shipping.test_shipping import shipping

AT = datetime(2026, 11, 23, 12, 30, 15, 123456, tzinfo=UTC)

FORGED = encode(
    to_syslog(
        Event(
            at=AT,
            decky="web-99",
            service="ssh",
            event_type=EventType.LOGIN_SUCCEEDED,
            trust=Trust.SENSOR,
            source="tap:boot",
            cursor="1.1",
            session="stolen",
            fields={"user": "root"},
        )
    )
)
"""What an intruder would like to have said: a line as a tap's event of another decky makes it."""


def spilling(text: str) -> bytes:
    """Write a line whose `nested` restores a text with line ends, as only our own codec should."""
    spilled = base64.b64encode(json.dumps({"@spilled": {"message": text}}).encode())
    return b'<86>1 2026-11-23T12:00:00Z web-99 sshd 1 - [relay@55555 nested="' + spilled + b'"] x'


TYPED = [
    "]", '"', "\\", '\\"', '"]', "a\0b", "a\rb", "a\nb", "\r\n", "\u2028\u2029\x85", "\ufeff", "\ufeffa",
    "\udcff\udcc3 no utf-8",
    "\ud83d lone", "\u202egnp.exe", "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "x" * 65_536, "\0" * 65_536,
    '"] trust="sensor',
    f"one\n{FORGED.decode()}", encode_control(Refuse("host")).decode(), "\nPING", " ", "", "\x1a0000",
]  # fmt: skip
"""Commands that a tap saw: every character is the attacker's."""

SAID = [
    FORGED,
    b"words before " + FORGED,
    FORGED.replace(b"[relay@55555 ", b'[x@1 y="z"][relay@55555 '),
    spilling(f"first\n{FORGED.decode()}"),
    spilling("Accepted password for root from 198.51.100.66 port 1 ssh2\n\x1b[2J"),
    encode_control(Hello("0" * 32)).replace(b"\n", b""),
    encode_frame(FORGED),
    encode_control(Skip(1 << 40)).replace(b"\n", b"\r"),
    b"\x1b[2J\x1b]0;owned\x07\x1b]52;c;ZXZpbA==\x07",
    b"\xff\xfe\x00\r\xe2\x80\xa8 not utf-8 \xed\xa0\x80",
    b"\xef\xbb\xbf" + FORGED,
    b'<86>1 2026-11-23T12:00:00Z web-99 decnet 1 log.opened [relay@55555 generation="' + b"0" * 32 + b'"] x',
    b"A" * 65_536,
    b"",
]
"""Lines of a decky's console: whoever is root there writes what he likes."""


async def test_hostile_words_reach_the_screen_exact_and_alone(
    admin: httpx.AsyncClient, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place.make(tmp_path / "site")
    sent = [
        *(
            read_line(line, at=AT, decky="web-01", source="container:c1", cursor=f"{n}.0")
            for n, line in enumerate(SAID)
        ),
        *(typed(number, text) for number, text in enumerate(TYPED)),
    ]
    log = EventLog.open(place.log_path, tmp_path / "state", host="w1", max_bytes=1 << 30, now=lambda: AT)
    log.append(sent)
    log.sync()
    log.close()

    async with streaming(admin, after=0) as live:
        async with receiving(place) as master, shipping(place, master.endpoint), ingesting(place.journal, store):
            await reached(lambda: master.writer.end.offset >= place.log_path.stat().st_size, "the journal has all")
            async with asyncio.timeout(20):
                while await store.events.latest_seq() < len(sent) + 1:
                    await asyncio.sleep(0.01)
                assert await store.ingest.position() == master.writer.end
        streamed = [(await live.next())[1] for _ in range(len(sent) + 1)]
    answer = await admin.get("/api/v1/events", params={"after": 0, "limit": 500})
    assert answer.content.isascii()
    opened, *rows = answer.json()["events"]
    assert opened["event_type"] == "log.opened"

    # One event for each, in order, each with what the collector bound and with exactly its words.
    assert [row["id"] for row in rows] == [event.id for event in sent]
    assert {(row["worker"], row["decky"], row["session"]) for row in rows} == {("w1", "web-01", None)}
    assert [row["trust"] for row in rows] == ["guest"] * len(SAID) + ["sensor"] * len(TYPED)
    assert [row["text"] for row in rows] == [event.text for event in sent]
    assert [row["fields"] for row in rows] == [dict(event.fields) for event in sent]
    assert all(len(row["text"]) <= MAX_TEXT_CHARS + 50 for row in rows[: len(SAID)])
    assert streamed == [opened, *rows]

    capsys.readouterr()
    evidence._print(rows, as_json=True)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    evidence._print(rows, as_json=False)
    shown = capsys.readouterr().out.split("\n")
    assert len(shown) == len(rows) + 1
    assert all(line.isprintable() for line in shown)
    assert all(f" web-01 {row['service']} " in line for line, row in zip(shown, rows, strict=False))


def said(number: int, line: bytes) -> Event:
    """Make the event that the collector makes of a console's line."""
    return read_line(line, at=AT, decky="web-01", source="container:c1", cursor=f"{number}.0")


def typed(number: int, text: str) -> Event:
    """Make the event that a tap makes of a command."""
    return Event(
        at=AT,
        decky="web-01",
        service="host",
        event_type=EventType.COMMAND_RUN,
        trust=Trust.SENSOR,
        source="tap:boot",
        cursor=f"{number + 1}",
        fields={"command": text},
        text=text[:8192],
    )
