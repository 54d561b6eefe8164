"""What a tap knows and has not delivered outlives it, whatever ends it, and is never told twice."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sqlite3
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from decnet_agent.evidence.sender import EvidenceSender
from decnet_agent.tap import memory as memory_module
from decnet_agent.tap.attribution import PROCESSES, SESSIONS, Flow, Process, Session
from decnet_agent.tap.leftovers import deliver
from decnet_agent.tap.memory import Memory
from decnet_agent.tap.remembered import BYTES, PLAIN, Remembered
from decnet_core.errors import RemoteProtocolError, Unavailable
from decnet_core.events import Event, EventType, Trust
from tests.core.process import Program
from tests.tap.collecting import Collector, listening

NOW = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


def event(number: int) -> Event:
    fields = {"command": f"echo {number}\nx"}
    return Event(NOW, "web-1", "ssh", EventType.COMMAND_RUN, Trust.SENSOR, "", "0", fields=fields)


def table() -> Remembered[str, bytes]:
    return Remembered("words", PLAIN, BYTES)


@contextlib.contextmanager
def opened(folder: Path, *tables: Remembered) -> Iterator[tuple[Memory, EvidenceSender]]:
    """A memory and its sender, as the tap wires them; closed as a kill closes them: without any last word."""
    memory = Memory(folder, tables)
    sender = EvidenceSender(folder.parent / "events.sock", memory.source, held=True)
    sender.restore(memory.outbox, memory.progress.last)
    try:
        yield memory, sender
    finally:
        memory.close()


def commands(lines: list[tuple[int, bytes]]) -> list[int]:
    return [number for number, line in lines if b'"echo ' in line]


def test_a_later_tap_goes_on_with_source_tables_events_and_position(tmp_path):
    words = table()
    with opened(tmp_path / "tap", words) as (memory, sender):
        words.put("a", b"\xff\0")
        words.put("b", b"2")
        sender.offer(event(1))
        sender.offer(event(2))
        memory.progress.ring, memory.progress.position = "ring", 4096
        memory.commit(sender)
        words.pop("b")
        words.put("c", b"3")
        sender.offer(event(3))
        memory.progress.position = 8192
        memory.commit(sender)
        source = memory.source
        (file,) = (tmp_path / "tap").glob("*.sqlite3")
        assert (stat.S_IMODE(file.stat().st_mode), file.stem) == (0o600, source)
        assert stat.S_IMODE((tmp_path / "tap").stat().st_mode) == 0o700
    again = table()
    with opened(tmp_path / "tap", again) as (memory, sender):
        assert (memory.found, memory.source, memory.older) == (True, source, [])
        assert again.items() == [("a", b"\xff\0"), ("c", b"3")]
        assert (memory.progress.ring, memory.progress.position, sender.last) == ("ring", 8192, 3)
        assert commands(sender.undelivered()) == [1, 2, 3]


def test_what_was_not_committed_never_was(tmp_path):
    words = table()
    with opened(tmp_path / "tap", words) as (memory, sender):
        memory.progress.position = 100
        memory.commit(sender)
        words.put("a", b"1")
        sender.offer(event(1))
        memory.progress.position = 200
        assert len(sender.unreleased()) == 1
    with opened(tmp_path / "tap", words := table()) as (memory, sender):
        assert (words.items(), sender.last, memory.progress.position) == ([], 0, 100)


WRITER = """
import os, signal, sys
from pathlib import Path
from decnet_agent.evidence.sender import EvidenceSender
from decnet_agent.tap.memory import Memory
from decnet_agent.tap.remembered import PLAIN, Remembered
from tests.tap.test_memory import event
words = Remembered("words", PLAIN, PLAIN)
memory = Memory(Path(sys.argv[1]), [words])
sender = EvidenceSender(Path("nowhere"), memory.source, held=True)
print("up")
for number in range(1, 100_000):
    words.put("last", number)
    words.put(f"word {number % 50}", "x" * 500)
    sender.offer(event(number))
    memory.progress.position = number
    memory.commit(sender)
    if number == int(sys.argv[2]):
        print("there")
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 40, 700])
def test_a_kill_anywhere_leaves_one_commit_whole(tmp_path, after):
    with Program(WRITER, tmp_path / "tap", after, env={"PYTHONPATH": str(Path(__file__).parents[2])}) as program:
        program.line_with("there")
        program.signal(signal.SIGKILL)
        program.wait()
    with opened(tmp_path / "tap", words := Remembered("words", PLAIN, PLAIN)) as (memory, sender):
        assert memory.found
        reached = memory.progress.position
        assert reached >= after
        assert (words.get("last"), sender.last) == (reached, reached)
        assert commands(sender.undelivered()) == list(range(1, reached + 1))


def test_one_tap_at_a_time(tmp_path):
    with opened(tmp_path / "tap"), pytest.raises(Unavailable, match="Another tap runs"):
        Memory(tmp_path / "tap", [])
    with opened(tmp_path / "tap"):
        pass


def test_a_folder_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tap").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable):
        Memory(tmp_path / "tap", [])


def test_a_full_disk_ends_the_remembering_until_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_module, "RETRY_SECS", 0.0)
    words = table()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path / "tap", words) as (memory, sender):
        words.put("a", b"1")
        sender.offer(event(1))
        memory.commit(sender)
        with capture_logs() as logged:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
            try:
                words.put("b", b"2")
                sender.offer(event(2))
                memory.commit(sender)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert list((tmp_path / "tap").glob("*.sqlite3*")) == []
            assert (sender.unreleased(), commands(sender.undelivered())) == ([], [1, 2])
            sender.offer(event(3))
            memory.commit(sender)
        assert [line["event"] for line in logged] == ["tap.memory_failed", "tap.memory_restored"]
        source = memory.source
    with opened(tmp_path / "tap", again := table()) as (memory, sender):
        assert (memory.source, again.items()) == (source, [("a", b"1"), ("b", b"2")])
        assert commands(sender.undelivered()) == [1, 2, 3]


async def test_what_the_collector_has_leaves_the_outbox(tmp_path):
    collector = Collector()
    with opened(tmp_path / "tap") as (memory, sender):
        async with listening(tmp_path / "events.sock", collector):
            sending = asyncio.create_task(sender.run())
            for number in range(5):
                sender.offer(event(number))
            assert collector.events == []  # held until the commit
            memory.commit(sender)
            await asyncio.wait_for(sender.drained(), 10)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        assert len(collector.events) == 5
        memory.commit(sender)
        with contextlib.closing(memory_module.connect(tmp_path / "other.sqlite3")):
            pass
    with opened(tmp_path / "tap") as (memory, sender):
        assert (sender.undelivered(), sender.last) == ([], 5)


def of_another_boot(folder: Path) -> None:
    (file,) = folder.glob("*.sqlite3")
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE meta SET value = 'another' WHERE name = 'boot'")


async def test_a_memory_of_another_boot_is_delivered_and_removed(tmp_path):
    with opened(tmp_path / "tap") as (memory, sender):
        for number in range(50):
            sender.offer(event(number))
        memory.commit(sender)
        source = memory.source
    of_another_boot(tmp_path / "tap")
    (tmp_path / "tap" / "tap.bad.sqlite3").write_bytes(b"no database" * 1000)
    collector = Collector()
    with opened(tmp_path / "tap") as (memory, sender):
        assert (memory.found, sender.last, memory.source != source) == (False, 0, True)
        async with listening(tmp_path / "events.sock", collector):
            delivering = asyncio.create_task(deliver(memory.older, tmp_path / "events.sock"))
            async with asyncio.timeout(20):
                while len(list((tmp_path / "tap").glob("*.sqlite3"))) > 1:
                    await asyncio.sleep(0.01)
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)
    assert [(one.source, one.cursor) for one in collector.events] == [(source, str(n)) for n in range(1, 51)]
    assert (tmp_path / "tap" / "tap.bad.unreadable").exists()


async def test_a_memory_whose_end_a_power_cut_took_is_delivered(tmp_path):
    """The collector has synced what it acknowledged, the tap has not: it has more than the memory knows of."""
    collector = Collector()
    with opened(tmp_path / "tap") as (memory, sender):
        for number in range(10):
            sender.offer(event(number))
        memory.commit(sender)
        source, file = memory.source, next((tmp_path / "tap").glob("*.sqlite3"))
        with contextlib.closing(sqlite3.connect(tmp_path / "copy")) as copy:
            memory._database.backup(copy)
        for number in range(10, 20):
            sender.offer(event(number))
        memory.commit(sender)
        async with listening(tmp_path / "events.sock", collector):
            sending = asyncio.create_task(sender.run())
            await asyncio.wait_for(sender.drained(), 10)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    for leftover in (tmp_path / "tap").glob("*.sqlite3*"):
        leftover.unlink()
    (tmp_path / "copy").rename(file)
    of_another_boot(tmp_path / "tap")
    with opened(tmp_path / "tap") as (memory, _):
        async with listening(tmp_path / "events.sock", collector):
            delivering = asyncio.create_task(deliver(memory.older, tmp_path / "events.sock"))
            async with asyncio.timeout(20):
                while file.exists():
                    await asyncio.sleep(0.01)
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)
    assert [(one.source, one.cursor) for one in collector.events] == [(source, str(n)) for n in range(1, 21)]


@given(st.lists(st.tuples(st.integers(0, 8), st.none() | st.binary(max_size=4)) | st.none()))
def test_a_table_is_what_its_changes_make_of_it(steps):
    """However it was changed, and whenever the changes were taken (None): the same entries in the same order."""
    words: Remembered[int, bytes] = Remembered("words", PLAIN, BYTES, 5)
    rows: dict[str, str] = {}

    def take() -> None:
        for key, value in words.changes():
            rows.pop(key, None)
            if value is not None:
                rows[key] = value

    for step in steps:
        if step is None:
            take()
        elif step[1] is None:
            words.pop(step[0])
        else:
            words.put(step[0], step[1])
    take()
    again: Remembered[int, bytes] = Remembered("words", PLAIN, BYTES, 5)
    again.restore(list(rows.items()))
    assert dict(again.items()) == dict(words.items())
    assert len(words) <= 5
    words.all_changed()
    assert len(words.changes()) == len(words)


PROCESS = Process(
    7, 3, 10**10, 4026532000, 0, (b"\xff", b"sh"), Session("ab", Flow("::1", 1, "::2", 22), 5), True, False, True, 9
)


@pytest.mark.parametrize("process", [PROCESS, Process(1, 1, 0, 1, 0, ())])
def test_a_process_is_read_as_it_was_written(process):
    processes = Remembered("processes", PLAIN, PROCESSES)
    processes.put(process.pid, process)
    again = Remembered("processes", PLAIN, PROCESSES)
    again.restore([(key, value) for key, value in processes.changes() if value is not None])
    assert again.items() == [(process.pid, process)]


@pytest.mark.parametrize(("key", "value"), [("x", "[]"), ("1", "{}"), ("1", "[1]"), ("1", "nul"), ("1", '["' * 5000)])
def test_what_no_table_wrote_is_refused(key, value):
    with pytest.raises(RemoteProtocolError):
        Remembered("processes", PLAIN, PROCESSES).restore([(key, value)])


def test_a_disk_that_fails_when_a_tap_says_that_it_lives_does_not_end_it(tmp_path):
    with opened(tmp_path / "tap") as (memory, _):
        lock, memory._lock = memory._lock, -1  # as a disk does that went away
        memory.alive()
        memory._lock = lock


def test_a_session_that_an_older_tap_wrote_is_of_the_ssh_server():
    from_before = ["ab", "::1", 1, "::2", 22, 5]
    assert SESSIONS.read(from_before) == Session("ab", Flow("::1", 1, "::2", 22), 5, "ssh")
    telnet = Session("ab", Flow("::1", 1, "::2", 23), 5, "telnet")
    assert SESSIONS.read(SESSIONS.write(telnet)) == telnet
