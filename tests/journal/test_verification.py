"""Verifying finds every way in which a journal can be broken, and nothing in one that is whole and in use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from decnet_core.errors import NotFound
from decnet_master.journal.inspection import inspect
from decnet_master.journal.reader import START, JournalReader, Position
from decnet_master.journal.record import Block, Kind, encode_block, encode_snapshot
from decnet_master.journal.segments import DURABLE_FILE, encode_marker, read_marker, segment_numbers, segment_path
from decnet_master.journal.verification import verify
from decnet_master.journal.writer import JournalWriter
from tests.journal.blocks import AT, SENDER, block, hole, read_all

FRAMES = b"5 first6 second"


def frames(start: int, data: bytes = FRAMES, stream: str = "plain-1") -> Block:
    return Block(SENDER, stream, start, start + len(data), AT, data, Kind.FRAMES)


def filled(folder: Path, segments: int = 4) -> JournalWriter:
    """A journal of several segments with every kind of record."""
    writer, at, number = JournalWriter.open(folder, segment_bytes=600), 0, 0
    while writer.end.segment < segments or writer.end.offset < 300:
        one = block(at, b"a line of the first stream, %06d" % number)
        skip = hole(number, number + 1, "s2")
        writer.append([one, skip, frames(number * len(FRAMES))])
        at, number = one.end, number + 1
    return writer


def whats(folder: Path) -> list[str]:
    return [fault.what for fault in verify(folder).faults]


def test_a_whole_journal_has_no_fault_and_is_counted(tmp_path: Path) -> None:
    writer = filled(tmp_path)
    found = verify(tmp_path)
    lines = sum(len(batch.lines) for batch in read_all(JournalReader(tmp_path)))
    assert (found.faults, found.end, found.segments, found.lines) == ([], writer.end, 4, lines)
    assert found.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.seg"))
    writer.close()
    assert whats(tmp_path) == []


def test_what_is_being_written_is_not_looked_at(tmp_path: Path) -> None:
    writer = filled(tmp_path)
    with segment_path(tmp_path, 4).open("ab") as segment:
        segment.write(b"DJR1 half a rec")
    segment_path(tmp_path, 5).write_bytes(encode_snapshot({}))
    assert whats(tmp_path) == []
    writer.close()


@pytest.mark.parametrize("number", [1, 2, 4])
def test_every_single_byte_is_held_to_its_check_sum(tmp_path: Path, number: int) -> None:
    filled(tmp_path).close()
    path = segment_path(tmp_path, number)
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        path.write_bytes(good[:at] + bytes((good[at] ^ 0x40,)) + good[at + 1 :])
        faults = verify(tmp_path).faults
        assert faults, at
        assert faults[0].segment == number
        assert faults[0].offset <= at
    path.write_bytes(good)
    assert whats(tmp_path) == []


def _cut(folder: Path) -> None:
    path = segment_path(folder, 2)
    path.write_bytes(path.read_bytes()[:-5])


def _cut_newest(folder: Path) -> None:
    path = segment_path(folder, 4)
    path.write_bytes(path.read_bytes()[:-5])


def _remove(folder: Path) -> None:
    segment_path(folder, 2).unlink()


def _remove_newest(folder: Path) -> None:
    segment_path(folder, 4).unlink()


def _no_marker(folder: Path) -> None:
    (folder / DURABLE_FILE).write_bytes(b"x" * 20)


def _append(folder: Path, *raw: bytes) -> None:
    """Add to the newest segment what a faulty writer would, and publish it."""
    path = segment_path(folder, 4)
    path.write_bytes(path.read_bytes() + b"".join(raw))
    (folder / DURABLE_FILE).write_bytes(encode_marker(Position(4, path.stat().st_size)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_cut, "ends inside a record"),
        (_cut_newest, "ends inside a record"),
        (_remove, "is missing"),
        (_remove_newest, "is missing"),
        (_no_marker, "marker"),
        (lambda folder: _append(folder, encode_block(block(10_000, b"gap"))), "goes on at 10000"),
        (lambda folder: _append(folder, encode_block(block(0, b"again"))), "goes on at 0"),
        (lambda folder: _append(folder, encode_block(frames(9_999))), "goes on at 9999"),
        (lambda folder: _append(folder, encode_block(frames(0, b"9 short", "plain-2"))), "frame"),
        (lambda folder: _append(folder, encode_snapshot({})), "in the middle"),
        (lambda folder: segment_path(folder, 3).write_bytes(encode_snapshot({})), "add up"),
        (lambda folder: segment_path(folder, 3).write_bytes(encode_block(block(0, b"x"))), "does not begin"),
        (lambda folder: segment_path(folder, 3).write_bytes(b""), "not whole"),
    ],
)
def test_each_kind_of_damage_is_named(tmp_path: Path, change: Callable[[Path], None], says: str) -> None:
    filled(tmp_path).close()
    change(tmp_path)
    assert says in " ".join(whats(tmp_path))


def test_a_journal_in_use_is_never_called_damaged(tmp_path: Path) -> None:
    writer, reader, done = JournalWriter.open(tmp_path, segment_bytes=2_000), JournalReader(tmp_path), threading.Event()

    def live() -> None:
        at, position = 0, START
        for number in range(600):
            one = block(at, b"line %d" % number)
            writer.append([one, frames(number * len(FRAMES))])
            at = one.end
            if number % 7 == 0 and (found := reader.read(position, 1 << 20)):
                position = found[-1].next
                reader.delete_before(position)
        done.set()

    thread = threading.Thread(target=live)
    thread.start()
    walks = 0
    while not done.is_set() or walks < 3:
        assert whats(tmp_path) == []
        walks += 1
    thread.join()
    assert segment_numbers(tmp_path)[0] > 1
    writer.close()


def test_no_journal_is_not_a_damaged_one(tmp_path: Path) -> None:
    for look in (verify, lambda folder: inspect(folder, START)):
        with pytest.raises(NotFound):
            look(tmp_path / "nowhere")


def test_inspecting_tells_what_waits_and_where_streams_are(tmp_path: Path) -> None:
    writer = filled(tmp_path)
    batches = read_all(JournalReader(tmp_path))
    seen = inspect(tmp_path, batches[5].next)
    assert (seen.oldest_segment, seen.newest_segment, seen.segments) == (1, 4, 4)
    assert (seen.oldest_at, seen.newest_at, seen.end) == (AT, AT, read_marker(tmp_path))
    assert seen.waiting is not None
    assert seen.waiting.lines == sum(len(batch.lines) for batch in batches[6:])
    assert seen.streams == {(SENDER, name): writer.durable_offset(SENDER, name) for name in ("s1", "s2")}
    assert inspect(tmp_path, None).waiting is None
    writer.close()
