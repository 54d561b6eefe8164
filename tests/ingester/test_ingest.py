from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from decnet_core.errors import Conflict, RemoteProtocolError
from decnet_core.events import Trust, event_id
from decnet_core.syslog.message import SyslogMessage
from decnet_core.syslog.rfc5424 import encode
from decnet_master.ingester.ingest import Ingester
from decnet_master.journal.reader import JournalReader, Position
from decnet_master.journal.record import Block, Kind
from decnet_master.journal.segments import segment_numbers
from decnet_master.journal.set_aside import set_aside
from decnet_master.journal.writer import JournalWriter
from decnet_master.store import Store
from tests.ingester.journals import (
    IDENTITY,
    NOW,
    STREAM,
    a_line,
    all_rows,
    append,
    append_frames,
    ingesting,
    until,
    until_read,
)


async def test_lines_become_rows_in_order(store: Store, writer: JournalWriter, folder: Path) -> None:
    append(writer, [a_line(n) for n in range(10)])
    async with ingesting(folder, store):
        await until_read(store, writer)
        append(writer, [a_line(10)])  # and the one that comes later
        await until_read(store, writer)
    rows = await all_rows(store)
    assert [row["text"] for row in rows] == [f"line {n}" for n in range(11)]
    assert rows[3]["id"] == event_id("container", "3")
    assert {(row["worker"], row["decky"], row["received_at"]) for row in rows} == {
        ("worker-1", "web-1", "2026-11-23T12:30:15.123456Z")
    }


async def test_nothing_is_read_twice_after_a_restart(store: Store, writer: JournalWriter, folder: Path) -> None:
    for turn in range(4):
        append(writer, [a_line(turn)])
        async with ingesting(folder, store):
            await until_read(store, writer)
    assert [row["cursor"] for row in await all_rows(store)] == ["0", "1", "2", "3"]


async def test_the_worker_is_the_certificate_s_whatever_a_line_says(
    store: Store, writer: JournalWriter, folder: Path
) -> None:
    lie = a_line(1, decky="worker-2", text='worker=worker-2 [relay@55555 worker="worker-2"]')
    append(writer, [lie], identity="logship@worker-9")
    async with ingesting(folder, store):
        await until_read(store, writer)
    (row,) = await all_rows(store)
    assert (row["worker"], row["decky"]) == ("worker-9", "worker-2")


POISON = [
    b"",
    b"garbage",
    b"\0" * 100,
    b"\xff\xfe" * 50,
    b"<134>1",
    b"<999>1 - - - - - -",
    b"<164>1 2026-11-23T12:30:15Z d ssh 99999999999999999999 guest.line - x",
    b'<164>1 - d ssh - guest.line [relay@55555 src_ip="' + b"9" * 70_000 + b'"] x',
    b'<164>1 - d ssh - guest.line [relay@55555 src_ip="::1%' + b"z" * 5_000 + b'"] x',
    b'<164>1 - d ssh - guest.line [relay@55555 dst_ip="nowhere"] x',
    b'<164>1 - d ssh - guest.line [relay@55555 src_port="99999"] x',
    b'<164>1 - d ssh - guest.line [relay@55555 trust="absolute"] x',
    b'<164>1 - d ssh - guest.line [relay@55555 nested="not base64"] x',
    b"<164>1 - " + b"d" * 70_000 + b" ssh - guest.line - x",
    b"<164>1 - d " + b"s" * 70_000 + b" - guest.line - x",
    b"<164>1 - d ssh - " + b"t" * 70_000 + b" - x",
]


async def test_poison_becomes_dead_letters_and_stops_nothing(store: Store, writer: JournalWriter, folder: Path) -> None:
    lines = [line for n, poison in enumerate(POISON) for line in (poison, a_line(n))]
    append(writer, lines)
    async with ingesting(folder, store, batch_rows=7):
        await until_read(store, writer)
    assert [row["cursor"] for row in await all_rows(store)] == [str(n) for n in range(len(POISON))]
    letters = [letter for _, letter in await store.ingest.dead_letters()]
    assert [letter.raw for letter in letters] == POISON
    assert all(letter.reason and letter.reason.isascii() and len(letter.reason) < 200 for letter in letters)
    assert {(letter.identity, letter.stream) for letter in letters} == {(IDENTITY, STREAM)}
    offsets = [sum(len(line) + 1 for line in lines[:n]) for n in range(0, len(lines), 2)]
    assert [letter.position for letter in letters] == offsets


HOSTILE = [
    "a\0b",
    "\udcff\udc80 not utf-8",
    "x" * 65_536,
    "\0" * 65_536,
    "one\n<164>1 - evil ssh - login.succeeded - two",
    "\r\n\x0b\x0c\x1c\x85\u2028",
    '"] [relay@55555 trust="sensor"] \\',
    "\x1a0000",
    "'); DROP TABLE events; --",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:10]))
async def test_hostile_words_arrive_exactly_and_make_no_second_event(
    store: Store, writer: JournalWriter, folder: Path, text: str
) -> None:
    line = a_line(1, event_type="command.run", text=text, fields={"command": text}, session=text)
    assert b"\n" not in line
    append(writer, [line])
    async with ingesting(folder, store):
        await until_read(store, writer)
    (row,) = await all_rows(store)
    assert (row["fields"], row["session"]) == ({"command": text}, text)
    assert row["text"] == text
    assert (row["decky"], row["trust"]) == ("web-1", "guest")


async def test_a_third_party_s_line_is_an_event_too(store: Store, writer: JournalWriter, folder: Path) -> None:
    append_frames(
        writer,
        [
            b"<38>1 2026-11-23T12:00:00Z fw sshd 77 - - Failed password for root from 203.0.113.5 port 4711 ssh2",
            b'<38>1 2026-11-23T12:00:00Z fw sshd 77 - [other@1 a="b"] a message\nof two lines SRC=203.0.113.6 ',
            b"<38>1 2026-11-23T12:00:00Z fw sshd 77 - - Failed password for root from 203.0.113.5 port 4711 ssh2",
        ],
    )
    async with ingesting(folder, store):
        await until_read(store, writer)
    first, second, third = await all_rows(store)
    assert [row["src_ip"] for row in (first, second, third)] == ["203.0.113.5", "203.0.113.6", "203.0.113.5"]
    assert (first["decky"], first["service"], first["event_type"], first["pid"]) == ("fw", "sshd", "guest.line", 77)
    assert (first["source"], first["cursor"]) == (f"{IDENTITY}/plain", "0")
    assert second["fields"] == {"other_sd": '[other@1 a="b"]'}
    assert second["text"].startswith("a message\nof two lines")
    assert len({row["id"] for row in (first, second, third)}) == 3  # equal words, two events


async def test_our_own_guest_lines_are_not_guessed_at(store: Store, writer: JournalWriter, folder: Path) -> None:
    append(writer, [a_line(1, text="src=203.0.113.5"), a_line(2, src_ip="192.0.2.1", text="src=203.0.113.5")])
    async with ingesting(folder, store):
        await until_read(store, writer)
    assert [row["src_ip"] for row in await all_rows(store)] == [None, "192.0.2.1"]


async def test_nested_metadata_is_kept(store: Store, writer: JournalWriter, folder: Path) -> None:
    params = {"source": "s", "cursor": "1", "trust": "sensor", "src_ip": "2001:DB8:0::1", "user": "root"}
    nested = {"deep": [1, {"text": "\0"}]}
    message = SyslogMessage(20, 4, NOW, "d1", "ssh", "-", "login.failed", params, nested, "")
    append(writer, [encode(message)])
    async with ingesting(folder, store):
        await until_read(store, writer)
    (row,) = await all_rows(store)
    assert row["fields"] == {"user": "root", "nested": nested}
    assert (row["src_ip"], row["trust"]) == ("2001:db8::1", Trust.SENSOR)


async def test_a_hole_leaves_a_trace(store: Store, writer: JournalWriter, folder: Path) -> None:
    append(writer, [a_line(1)])
    start = writer.durable_offset(IDENTITY, STREAM)
    writer.append([Block(IDENTITY, STREAM, start, start + 70_000, NOW, b"", Kind.HOLE)])
    append(writer, [a_line(2)])
    async with ingesting(folder, store):
        await until_read(store, writer)
    assert len(await all_rows(store)) == 2
    ((_, letter),) = await store.ingest.dead_letters()
    assert (letter.position, letter.raw) == (start, b"")
    assert "70000 bytes" in letter.reason


async def test_what_the_journal_lost_is_an_alarm_and_the_rest_is_stored(
    store: Store, writer: JournalWriter, folder: Path
) -> None:
    append(writer, [a_line(1)])
    start = writer.end.offset
    append(writer, [a_line(2)])
    end = writer.end.offset
    append(writer, [a_line(3)])
    writer.close()
    path = folder / f"{1:016d}.seg"
    raw = bytearray(path.read_bytes())
    raw[end - 3] ^= 0xFF
    path.write_bytes(raw)
    set_aside(folder, Position(0, 0), {}, NOW)
    async with ingesting(folder, store):

        async def stored() -> bool:
            return len(await all_rows(store)) == 3

        await until(stored)
    first, alarm, third = await all_rows(store)
    assert [first["cursor"], third["cursor"]] == ["1", "3"]
    assert (alarm["event_type"], alarm["worker"], alarm["trust"]) == ("evidence.dropped", "decnet-master", "sensor")
    assert alarm["fields"]["count"] == str(end - start)
    assert f"segment 1 from byte {start} to byte {end}" in alarm["fields"]["reason"]
    assert await store.ingest.dead_letter_count() == 0


async def test_lines_of_an_identity_that_is_none_are_dead_letters(
    store: Store, writer: JournalWriter, folder: Path
) -> None:
    append(writer, [a_line(1)], identity="nobody")
    async with ingesting(folder, store):
        await until_read(store, writer)
    assert await store.events.latest_seq() == 0
    assert await store.ingest.dead_letter_count() == 1


async def test_read_segments_are_deleted_but_for_the_last(store: Store, writer: JournalWriter, folder: Path) -> None:
    number = 0
    while writer.end.segment < 6:
        append(writer, [a_line(n, text="x" * 500) for n in range(number, number + 100)])
        number += 100
    async with ingesting(folder, store, batch_rows=100):
        await until_read(store, writer)

        async def cleaned() -> bool:
            return segment_numbers(folder) == [5, 6]

        await until(cleaned)
    assert len(await all_rows(store)) == number


async def test_nothing_is_deleted_before_it_is_stored(store: Store, writer: JournalWriter, folder: Path) -> None:
    while writer.end.segment < 4:
        append(writer, [a_line(n, text="x" * 500) for n in range(100)])
    ingester = Ingester(JournalReader(folder), store, batch_rows=50, max_wait_secs=0.0)
    task = asyncio.create_task(ingester.run())
    while not task.done():
        position, oldest = await store.ingest.position(), segment_numbers(folder)[0]
        assert position.segment == 0 or oldest >= 1
        assert oldest <= max(position.segment, (await store.ingest.position()).segment, 1)
        if position == writer.end:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert segment_numbers(folder)[0] >= 3


async def test_a_damaged_journal_stops_it_and_moves_nothing(store: Store, writer: JournalWriter, folder: Path) -> None:
    append(writer, [a_line(1)])
    path = folder / f"{1:016d}.seg"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 0xFF
    path.write_bytes(raw)
    ingester = Ingester(JournalReader(folder), store, batch_rows=10, max_wait_secs=0.0)
    with pytest.raises(RemoteProtocolError, match="damaged"):
        await asyncio.wait_for(ingester.run(), 20)
    assert await store.ingest.position() == Position(0, 0)


async def test_two_ingesters_store_each_line_once(store: Store, url: str, writer: JournalWriter, folder: Path) -> None:
    for n in range(0, 3000, 10):
        append(writer, [a_line(i) for i in range(n, n + 10)])
    async with await Store.open(url) as other:
        ingesters = [Ingester(JournalReader(folder), s, batch_rows=100, max_wait_secs=0.0) for s in (store, other)]
        tasks = [asyncio.create_task(ingester.run()) for ingester in ingesters]
        await until_read(store, writer)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, Conflict | asyncio.CancelledError) for result in results)
    assert [row["cursor"] for row in await all_rows(store)] == [str(n) for n in range(3000)]


@pytest.mark.slow
async def test_cancelling_anywhere_loses_and_repeats_nothing(store: Store, writer: JournalWriter, folder: Path) -> None:
    for n in range(0, 2000, 10):
        append(writer, [a_line(i) for i in range(n, n + 10)])
    steps = 1
    while await store.ingest.position() != writer.end:
        ingester = Ingester(JournalReader(folder), store, batch_rows=50, max_wait_secs=0.0)
        task = asyncio.create_task(ingester.run())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        steps += 7
    assert [row["cursor"] for row in await all_rows(store)] == [str(n) for n in range(2000)]
