from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from decnet_agent.evidence.appending import EventAppender
from decnet_agent.evidence.event_log import EventLog
from decnet_core.errors import ConfigError, Conflict, RetryLater
from decnet_core.events import Event, EventType, Trust, cursor_key
from tests.agent.worker import read_events

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def said() -> Iterator[list[dict[str, object]]]:
    """Our own log lines, kept from standard output, which a limit on file sizes would hit as well."""
    with capture_logs() as lines:
        yield lines


def event(source: str, number: int, text: str = "words") -> Event:
    return Event(AT, "files01", "ssh", EventType.GUEST_LINE, Trust.GUEST, source, f"{number}.0", text=text)


def open_log(folder: Path, max_bytes: int = 1 << 20) -> EventLog:
    return EventLog.open(folder / "log/events.log", folder / "state", host="w1", max_bytes=max_bytes, now=lambda: AT)


def collected(folder: Path) -> list[tuple[str, str]]:
    """Return source and cursor of every event in all files of the log, oldest file first."""
    files = sorted((folder / "log").glob("events.log*"), key=lambda path: path.stat().st_mtime_ns)
    events = [item for path in files for item in read_events(path)]
    return [(item.source, item.cursor) for item in events if item.event_type != "log.opened"]


def test_a_file_begins_with_its_generation(tmp_path):
    log = open_log(tmp_path)
    log.append([event("a", 1)])
    log.sync()
    first, second = read_events(tmp_path / "log/events.log")
    assert (first.event_type, first.fields, first.decky) == ("log.opened", {"generation": log.generation}, "w1")
    assert second == event("a", 1)
    assert log.cursor("a") == "1.0"
    log.close()


def test_what_the_log_holds_is_not_written_again(tmp_path):
    log = open_log(tmp_path)
    log.append([event("a", 1), event("a", 2), event("b", 1)])
    log.append([event("a", 2), event("a", 1), event("b", 2), event("b", 2)])
    assert log.written == 4
    log.close()
    log = open_log(tmp_path)
    log.append([event("a", 2), event("a", 3)])
    log.close()
    assert collected(tmp_path) == [("a", "1.0"), ("a", "2.0"), ("b", "1.0"), ("b", "2.0"), ("a", "3.0")]


def test_the_same_boot_continues_the_file_and_another_begins_one(tmp_path):
    log = open_log(tmp_path)
    generation = log.generation
    log.close()
    log = open_log(tmp_path)
    assert log.generation == generation
    log.append([event("a", 1)])
    log.close()
    checkpoint = tmp_path / "state/event-log.json"
    checkpoint.write_text(json.dumps({**json.loads(checkpoint.read_text()), "boot_id": "another"}))
    log = open_log(tmp_path)
    assert log.generation != generation
    assert log.cursor("a") == "1.0"
    assert (tmp_path / f"log/events.log.{generation}").exists()
    log.close()


def test_rotation_keeps_all_and_every_cursor(tmp_path):
    log = open_log(tmp_path, max_bytes=2000)
    for number in range(50):
        log.append([event(f"s{number % 3}", number)])
    log.close()
    assert len(list((tmp_path / "log").glob("events.log.*"))) > 3
    assert len(collected(tmp_path)) == len(set(collected(tmp_path))) == 50
    (tmp_path / "state/event-log.json").unlink()
    log = open_log(tmp_path)
    assert [log.cursor(f"s{number}") for number in range(3)] == ["48.0", "49.0", "47.0"]
    log.close()


def test_a_file_that_the_shipper_removed_takes_no_cursor_along(tmp_path):
    log = open_log(tmp_path)
    log.append([event("a", 1), event("a", 2)])
    log.checkpoint_if_moved()
    log.close()
    # a crash in the middle of a rotation, after which the shipper had its time
    (tmp_path / "log/events.log").unlink()
    log = open_log(tmp_path)
    assert log.cursor("a") == "2.0"
    log.append([event("a", 2), event("a", 3)])
    log.close()
    assert collected(tmp_path) == [("a", "3.0")]


def test_there_is_one_writer(tmp_path):
    log = open_log(tmp_path)
    with pytest.raises(Conflict, match="Another agent"):
        open_log(tmp_path)
    log.close()
    open_log(tmp_path).close()


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "log").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be written"):
        open_log(tmp_path)


def test_a_foreign_file_is_moved_aside(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log/events.log").write_text("not ours\n")
    open_log(tmp_path).close()
    assert [path.read_text() for path in (tmp_path / "log").glob("events.log.foreign-*")] == ["not ours\n"]


def test_an_event_that_does_not_fit_stops_none_behind_it(tmp_path):
    log = open_log(tmp_path)
    bad = Event(AT, "files01", "ssh", EventType.LOGIN_FAILED, Trust.GUEST, "a", "2.0")
    log.append([event("a", 1), bad, event("a", 3)])
    log.close()
    assert collected(tmp_path) == [("a", "1.0"), ("a", "3.0")]


@given(
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 30)), min_size=1, max_size=6), max_size=8
    ),
    cut=st.integers(0, 10_000),
    garbage=st.sampled_from([b"", b"\0\0\0", b"<38>1 half a line"]),
    checkpoint=st.sampled_from(["kept", "gone", "damaged"]),
    small=st.booleans(),
)
def test_a_crash_anywhere_loses_and_repeats_nothing(tmp_path_factory, batches, cut, garbage, checkpoint, small):
    """A sensor that offers everything again after a crash finds it once in the log, whatever the crash left."""
    folder = tmp_path_factory.mktemp("log")
    max_bytes = 700 if small else 1 << 20
    offered = [sorted((event(*item) for item in set(batch)), key=_order) for batch in batches]
    log = open_log(folder, max_bytes)
    for batch in offered:
        log.append(batch)
    generation = log.generation
    log.close()
    path, note = folder / "log/events.log", folder / "state/event-log.json"
    # cut back to anywhere behind what is durable: the last checkpoint
    durable = json.loads(note.read_text())["offset"]
    size = path.stat().st_size
    os.truncate(path, max(durable, size - cut))
    with path.open("ab") as file:
        file.write(garbage)
    if checkpoint == "gone":
        note.unlink()
    elif checkpoint == "damaged":
        note.write_bytes(note.read_bytes()[: cut % 40])
    log = open_log(folder, max_bytes)
    assert checkpoint != "kept" or log.generation == generation
    for batch in offered:
        log.append(batch)
    log.close()
    found = collected(folder)
    assert len(set(found)) == len(found)
    for source in "ab":
        cursors = [cursor_key(cursor) for name, cursor in found if name == source]
        assert cursors == sorted(cursors)
    assert set(found) == _first_come(offered)


def _order(item: Event) -> tuple[int, ...]:
    return cursor_key(item.cursor)


def _first_come(offered: Sequence[Sequence[Event]]) -> set[tuple[str, str]]:
    """What a log takes of sources whose cursors must grow."""
    known: dict[str, tuple[int, ...]] = {}
    taken = set()
    for batch in offered:
        for item in batch:
            if _order(item) > known.get(item.source, ()):
                known[item.source] = _order(item)
                taken.add((item.source, item.cursor))
    return taken


def test_a_full_disk_keeps_whole_lines_and_the_rest_for_later(tmp_path):
    """RLIMIT_FSIZE is a disk that ends at a byte: writes before it are short, writes behind it fail."""
    log = open_log(tmp_path)
    log.sync()
    path = tmp_path / "log/events.log"
    events = [event("a", number, "x" * 100) for number in range(1, 30)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1500, hard))
    try:
        with pytest.raises(RetryLater, match="no space"):
            log.append(events)
        assert path.read_bytes().endswith(b"\n")
        assert 2 < len(read_events(path)) < 10
        with pytest.raises(RetryLater):
            log.append(events)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.append(events)
    log.close()
    assert collected(tmp_path) == [("a", f"{number}.0") for number in range(1, 30)]


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"[" * 100_000, b'{"generation": 1, "offset": 1, "cursors": 1}'])
def test_a_damaged_checkpoint_costs_a_longer_look_and_nothing_else(tmp_path, damaged):
    log = open_log(tmp_path)
    log.append([event("a", 1)])
    log.close()
    (tmp_path / "state/event-log.json").write_bytes(damaged)
    again = open_log(tmp_path)
    again.append([event("a", 1), event("a", 2)])
    again.close()
    assert collected(tmp_path) == [("a", "1.0"), ("a", "2.0")]


def test_a_disk_that_fills_in_the_middle_of_a_rotation(tmp_path):
    """The old file has its final name by then, and the next one has no room for its first line yet."""
    log = open_log(tmp_path, max_bytes=1000)
    first_line = (tmp_path / "log/events.log").stat().st_size
    log.append([event("a", number, "x" * 100) for number in range(1, 9)])
    log.sync()
    log.checkpoint_if_moved()
    checkpoint = (tmp_path / "state/event-log.json").stat().st_size
    assert checkpoint + 10 < first_line, "else the limit below hits the checkpoint"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (checkpoint + 10, hard))
    try:
        for _ in range(2):
            with pytest.raises(RetryLater):
                log.append([event("a", 9)])
            log.checkpoint_if_moved()
        assert not (tmp_path / "log/events.log").exists()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.append([event("a", 9), event("a", 10)])
    log.close()
    assert collected(tmp_path) == [("a", f"{number}.0") for number in range(1, 11)]
    again = open_log(tmp_path)
    assert again.cursor("a") == "10.0"
    again.close()


WRITER = """
import sys
from pathlib import Path
import structlog
structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
from tests.agent.test_event_log import event, open_log
log = open_log(Path(sys.argv[1]), 20_000)
number = int((log.cursor("a") or "0.0").split(".")[0])
print("up", flush=True)
while True:
    log.append([event("a", number + step, "x" * 200) for step in range(1, 8)])
    log.sync()
    number += 7
"""


@pytest.mark.slow
def test_kill_9_of_the_writer(tmp_path):
    for round_number in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        assert writer.stdout is not None
        assert select.select([writer.stdout], [], [], 30)[0]
        path = tmp_path / "log/events.log"
        wanted = path.stat().st_size
        while path.exists() and path.stat().st_size <= wanted and writer.poll() is None and round_number:
            pass  # until it has written something: bounded by the test's timeout
        writer.kill()
        writer.wait()
        writer.stdout.close()
    log = open_log(tmp_path)
    cursor = log.cursor("a")
    log.close()
    assert cursor is not None
    assert collected(tmp_path) == [("a", f"{number}.0") for number in range(1, int(cursor.split(".")[0]) + 1)]


async def test_sensors_share_one_write(tmp_path):
    log = open_log(tmp_path)
    appender = EventAppender(log)
    running = asyncio.create_task(appender.run())
    async with asyncio.timeout(20):
        await asyncio.gather(*(appender.append([event(f"s{n}", 1), event(f"s{n}", 2)]) for n in range(50)))
    assert appender.written == 100
    assert appender.cursor("s7") == "2.0"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    log.close()


async def test_a_full_disk_makes_sensors_wait(tmp_path):
    log = open_log(tmp_path)
    appender = EventAppender(log)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "log/events.log").stat().st_size + 10, hard))
    running = asyncio.create_task(appender.run())
    try:
        offering = asyncio.create_task(appender.append([event("a", 1)]))
        done, _ = await asyncio.wait([offering], timeout=0.3)
        assert not done
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    async with asyncio.timeout(10):
        await offering
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    log.close()
    assert collected(tmp_path) == [("a", "1.0")]
