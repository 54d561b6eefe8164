"""Whatever byte of a journal breaks: setting it aside keeps the rest where it was, and both ends go on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decnet_core.errors import RemoteProtocolError
from decnet_master.journal.reader import START, Batch, JournalReader, Position
from decnet_master.journal.record import encode_block
from decnet_master.journal.segments import read_marker, segment_numbers, segment_path
from decnet_master.journal.set_aside import FOLDER, find_damage, set_aside
from decnet_master.journal.verification import verify
from decnet_master.journal.writer import JournalWriter
from tests.journal.blocks import SENDER, block, read_all
from tests.journal.test_verification import filled

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def told(batches: list[Batch]) -> list[tuple[Position, tuple[bytes, ...]]]:
    """What a reader gets: where each batch ends, and its lines; without what is lost."""
    return [(batch.next, batch.lines) for batch in batches if not batch.is_lost]


def lost(batches: list[Batch]) -> list[tuple[int, int, int]]:
    return [(batch.next.segment, batch.start, batch.end) for batch in batches if batch.is_lost]


def break_at(folder: Path, number: int, at: int, size_bytes: int = 1) -> None:
    path = segment_path(folder, number)
    raw = bytearray(path.read_bytes())
    for place in range(at, min(at + size_bytes, len(raw))):
        raw[place] ^= 0x5A
    path.write_bytes(raw)


def goes_on(folder: Path) -> None:
    """A writer opens it, a reader reads it to its end, nothing is wrong with it."""
    writer = JournalWriter.open(folder, segment_bytes=600)
    writer.append([block(writer.durable_offset(SENDER, "s1"), b"later")])
    assert read_all(JournalReader(folder))[-1].lines == (b"later",)
    writer.close()
    assert verify(folder).faults == []


@settings(max_examples=settings().max_examples // 4, deadline=None)
@given(number=st.integers(1, 4), share=st.floats(0, 0.999), size_bytes=st.sampled_from((1, 1, 1, 40, 400)))
def test_what_can_be_read_stays_and_the_rest_is_named(
    tmp_path_factory: pytest.TempPathFactory, number: int, share: float, size_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    filled(folder).close()
    before = read_all(JournalReader(folder))
    break_at(folder, number, int(segment_path(folder, number).stat().st_size * share), size_bytes)
    broken = segment_path(folder, number).read_bytes()
    if number == 1 and find_damage(folder, START)[0].start == 0:
        return  # of the first one's own head, see below
    found = set_aside(folder, START, {}, NOW)
    assert {stretch.segment for stretch in found} == {number}
    (kept,) = (folder / FOLDER).iterdir()
    assert kept.read_bytes() == broken
    after = read_all(JournalReader(folder))
    assert lost(after) == [(stretch.segment, stretch.start, stretch.end) for stretch in found]
    # Nothing that is read was not there before, at the same place, and what is missing lay in a stretch.
    assert set(told(after)) <= set(told(before))
    missing = set(told(before)) - set(told(after))
    assert all(any(_within(at, stretch.segment, stretch.start, stretch.end) for stretch in found) for at, _ in missing)
    if number > 1:  # in the first one no stream is known behind a head that is broken
        assert len(missing) <= 4 + size_bytes // 40
    assert set_aside(folder, START, {}, NOW) == []
    goes_on(folder)


def _within(at: Position, segment: int, start: int, end: int) -> bool:
    return at.segment == segment and start < at.offset <= end


def test_a_segment_that_is_gone_is_named_whole(tmp_path: Path) -> None:
    filled(tmp_path).close()
    segment_path(tmp_path, 2).unlink()
    with pytest.raises(RemoteProtocolError, match="segment 2 is missing"):
        read_all(JournalReader(tmp_path))
    (stretch,) = set_aside(tmp_path, START, {}, NOW)
    assert (stretch.segment, stretch.start, stretch.is_stored) == (2, 0, False)
    assert [where[0] for where in lost(read_all(JournalReader(tmp_path)))] == [2]
    goes_on(tmp_path)


def test_a_newest_segment_whose_end_is_lost_asks_for_it_again(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path)
    writer.append([block(0, b"one")])
    kept_bytes = writer.end.offset
    writer.append([block(4, b"two")])
    writer.close()
    break_at(tmp_path, 1, kept_bytes + 20)
    with pytest.raises(RemoteProtocolError, match="damaged"):
        JournalWriter.open(tmp_path)
    reported = {(SENDER, "s1"): 8}
    (stretch,) = set_aside(tmp_path, Position(1, kept_bytes), reported, NOW)
    assert not stretch.is_stored
    writer = JournalWriter.open(tmp_path)
    assert writer.durable_offset(SENDER, "s1") == 4, "the sender is asked for it again"
    writer.close()


def test_what_was_stored_before_is_asked_for_by_nobody(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path)
    writer.append([block(0, b"one")])
    kept_bytes = writer.end.offset
    writer.append([block(4, b"two")])
    end = writer.end
    writer.close()
    break_at(tmp_path, 1, kept_bytes + 20)
    (stretch,) = set_aside(tmp_path, end, {(SENDER, "s1"): 8}, NOW)
    assert stretch.is_stored
    writer = JournalWriter.open(tmp_path)
    assert writer.durable_offset(SENDER, "s1") == 8
    writer.append([block(8, b"three")])
    assert [batch.lines for batch in JournalReader(tmp_path).read(end, 1 << 20)] == [(b"three",)]
    writer.close()


def test_the_position_stays_good_inside_of_what_broke_later(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path)
    writer.append([block(0, b"one"), block(4, b"two")])
    middle = writer.end
    writer.append([block(8, b"three"), block(14, b"four")])
    writer.append([block(19, b"five")])
    end = writer.end.offset - len(encode_block(block(19, b"five")))
    writer.close()
    break_at(tmp_path, 1, middle.offset - 40, end - middle.offset + 20)  # from "two" into "four"
    found = set_aside(tmp_path, middle, {}, NOW)
    assert len(found) == 1
    batches = JournalReader(tmp_path).read(middle, 1 << 20)
    assert (batches[0].is_lost, batches[0].start, batches[0].end) == (True, middle.offset, end)
    assert [batch.lines for batch in batches[1:]] == [(b"five",)]


def test_nothing_is_believed_that_a_line_may_hold(tmp_path: Path) -> None:
    """A line that looks like a record of somebody else's, inside of a record that is damaged in its head."""
    forged = encode_block(block(0, b"forged", identity="logship@victim", stream="f" * 32))
    writer = JournalWriter.open(tmp_path)
    writer.append([block(0, b"one")])
    start = writer.end.offset
    writer.append([block(4, b"x" + forged.rstrip(b"\n"))])
    writer.append([block(4 + 2 + len(forged) - 1, b"last")])
    writer.close()
    break_at(tmp_path, 1, start, 4)
    set_aside(tmp_path, START, {}, NOW)
    batches = read_all(JournalReader(tmp_path))
    assert {batch.identity for batch in batches if not batch.is_lost} == {SENDER}
    assert [batch.lines for batch in batches] == [(b"one",), (), (b"last",)]


def test_without_any_table_it_gives_up_and_changes_nothing(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path)
    writer.append([block(0, b"one")])
    writer.close()
    break_at(tmp_path, 1, 0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RemoteProtocolError, match="table"):
        set_aside(tmp_path, START, {}, NOW)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_torn_tail_is_no_damage(tmp_path: Path) -> None:
    filled(tmp_path).close()
    with segment_path(tmp_path, 4).open("ab") as segment:
        segment.write(encode_block(block(0, b"half"))[:-3])
    assert find_damage(tmp_path, START) == []
    assert set_aside(tmp_path, START, {}, NOW) == []
    assert segment_numbers(tmp_path)[-1] == read_marker(tmp_path).segment == 4
