"""The writer and the reader together: order, rotation, recovery, what a crash may leave behind."""

import os
from pathlib import Path

import pytest

from decnet_core.errors import Conflict, LocalProtocolError, RemoteProtocolError
from decnet_core.syslog.framing import encode_frames
from decnet_master.journal.reader import START, JournalReader, Position
from decnet_master.journal.record import Block, Kind, encode_block
from decnet_master.journal.segments import DURABLE_FILE, segment_numbers, segment_path
from decnet_master.journal.table import OffsetTable
from decnet_master.journal.writer import JournalWriter
from tests.journal.blocks import AT, SENDER, block, hole, lines_of, read_all


def test_what_is_appended_is_read_in_order(tmp_path: Path) -> None:
    writer, reader = JournalWriter.open(tmp_path), JournalReader(tmp_path)
    writer.append([block(0, b"one", b"two"), block(0, b"other", stream="s2"), hole(8, 20)])
    writer.append([block(20, b"three")])
    batches = read_all(reader)
    assert [(batch.stream, batch.start, batch.end, batch.lines) for batch in batches] == [
        ("s1", 0, 8, (b"one", b"two")),
        ("s2", 0, 6, (b"other",)),
        ("s1", 8, 20, ()),
        ("s1", 20, 26, (b"three",)),
    ]
    assert batches[0].received_at == AT
    assert batches[-1].next == writer.end
    assert writer.durable_offset(SENDER, "s1") == 26
    assert writer.durable_offset(SENDER, "never heard of") == 0
    writer.close()


def test_an_empty_or_absent_journal_reads_as_nothing(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path / "journal")
    assert reader.read(START, 1000) == []
    writer = JournalWriter.open(tmp_path / "journal")
    assert reader.read(START, 1000) == []
    writer.close()


def test_a_small_budget_still_gives_whole_batches_one_by_one(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path, segment_bytes=300)
    for number in range(20):
        writer.append([block(number * 101, b"%0100d" % number)])
    reader = JournalReader(tmp_path)
    assert len(reader.read(START, 1)) == 1
    for max_bytes in (1, 50, 200, 500, 1 << 20):
        assert lines_of(read_all(reader, max_bytes)) == [b"%0100d" % number for number in range(20)]
    writer.close()


def test_segments_rotate_carry_the_table_and_are_deleted_once_read(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path, segment_bytes=200)
    writer.append([block(0, b"rare", stream="s2")])
    for number in range(10):
        writer.append([block(number * 101, b"%0100d" % number)])
    writer.close()
    assert len(segment_numbers(tmp_path)) > 3
    for number in segment_numbers(tmp_path)[:-1]:
        segment_path(tmp_path, number).write_bytes(b"not looked at by a start")
    writer = JournalWriter.open(tmp_path, segment_bytes=200)
    assert writer.durable_offset(SENDER, "s1") == 1010
    assert writer.durable_offset(SENDER, "s2") == 5
    reader = JournalReader(tmp_path)
    newest = segment_numbers(tmp_path)[-1]
    assert reader.delete_before(Position(newest, 0)) == newest - 1
    assert segment_numbers(tmp_path) == [newest]
    assert reader.delete_before(Position(newest + 5, 0)) == 0
    writer.append([block(1010, b"after")])
    assert lines_of(read_all(reader))[-1] == b"after"
    writer.close()


def test_gaps_and_overlaps_are_refused_and_change_nothing(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path)
    writer.append([block(0, b"one")])
    for wrong in ([block(0, b"one")], [block(5, b"gap")], [block(4, b"two"), block(4, b"two")]):
        with pytest.raises(LocalProtocolError):
            writer.append(wrong)
    assert writer.durable_offset(SENDER, "s1") == 4
    assert lines_of(read_all(JournalReader(tmp_path))) == [b"one"]
    writer.close()


def test_plain_streams_are_kept_but_not_in_the_table(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path)
    data = encode_frames([b"a\nb", b"c"])
    writer.append([Block(SENDER, "plain-1", 0, len(data), AT, data, Kind.FRAMES)])
    assert writer.durable_offset(SENDER, "plain-1") == 0
    assert lines_of(read_all(JournalReader(tmp_path)), "plain-1") == [b"a\nb", b"c"]
    writer.close()


def test_only_one_writer_at_a_time(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path)
    with pytest.raises(Conflict):
        JournalWriter.open(tmp_path)
    writer.close()
    JournalWriter.open(tmp_path).close()


@pytest.mark.parametrize("torn", [1, 15, 16, 17, 40, -1])
def test_a_torn_tail_is_never_read_and_is_cut_at_the_next_start(tmp_path: Path, torn: int) -> None:
    writer = JournalWriter.open(tmp_path)
    writer.append([block(0, b"one")])
    end = writer.end
    writer.close()
    unfinished = encode_block(block(4, b"two" * 20))[:torn]
    with segment_path(tmp_path, 1).open("ab") as segment:
        segment.write(unfinished)
    reader = JournalReader(tmp_path)
    assert lines_of(read_all(reader)) == [b"one"]
    writer = JournalWriter.open(tmp_path)
    assert writer.end == end
    assert segment_path(tmp_path, 1).stat().st_size == end.offset
    writer.append([block(4, b"again")])
    assert lines_of(read_all(reader)) == [b"one", b"again"]
    writer.close()


def test_what_was_written_whole_before_a_crash_is_kept_and_counted(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path)
    writer.append([block(0, b"one")])
    writer.close()
    with segment_path(tmp_path, 1).open("ab") as segment:
        segment.write(encode_block(block(4, b"two")))
    reader = JournalReader(tmp_path)
    assert lines_of(read_all(reader)) == [b"one"], "written is not durable"
    writer = JournalWriter.open(tmp_path)
    assert writer.durable_offset(SENDER, "s1") == 8
    assert lines_of(read_all(reader)) == [b"one", b"two"]
    writer.close()


def test_a_marker_from_before_a_power_cut_only_hides(tmp_path: Path) -> None:
    writer, reader = JournalWriter.open(tmp_path), JournalReader(tmp_path)
    old = (tmp_path / DURABLE_FILE).read_bytes()
    writer.append([block(0, b"one")])
    taken = read_all(reader)
    writer.close()
    (tmp_path / DURABLE_FILE).write_bytes(old)
    assert reader.read(taken[-1].next, 1000) == [], "not an error: the bytes are there"
    for broken in (b"", b"\xff" * 20, old[:7]):
        (tmp_path / DURABLE_FILE).write_bytes(broken)
        assert reader.read(START, 1000) == []
    writer = JournalWriter.open(tmp_path)
    writer.append([block(4, b"two")])
    assert [batch.lines for batch in reader.read(taken[-1].next, 1000)] == [(b"two",)]
    writer.close()


def test_damage_before_the_marker_is_an_error_for_both(tmp_path: Path) -> None:
    writer = JournalWriter.open(tmp_path)
    for number in range(10):
        writer.append([block(number * 11, b"%010d" % number)])
    writer.close()
    path = segment_path(tmp_path, 1)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    reader = JournalReader(tmp_path)
    with pytest.raises(RemoteProtocolError):
        read_all(reader)
    with pytest.raises(RemoteProtocolError):
        JournalWriter.open(tmp_path)
    assert path.read_bytes() == raw, "refusing must not change anything"


def test_a_journal_that_lost_its_end_or_a_segment_is_an_error(tmp_path: Path) -> None:
    writer, reader = JournalWriter.open(tmp_path, segment_bytes=100), JournalReader(tmp_path)
    for number in range(6):
        writer.append([block(number * 101, b"%0100d" % number)])
    end = writer.end
    writer.close()
    middle = segment_path(tmp_path, 3)
    kept = middle.read_bytes()
    middle.write_bytes(kept[:-1])
    with pytest.raises(RemoteProtocolError):
        read_all(reader)
    middle.unlink()
    with pytest.raises(RemoteProtocolError):
        read_all(reader)
    with pytest.raises(RemoteProtocolError):
        reader.read(Position(end.segment, end.offset + 1), 1000)
    with pytest.raises(RemoteProtocolError):
        reader.read(Position(end.segment + 1, 0), 1000)
    os.truncate(segment_path(tmp_path, end.segment), end.offset - 1)
    with pytest.raises(RemoteProtocolError):
        JournalWriter.open(tmp_path)
    segment_path(tmp_path, end.segment).unlink()
    with pytest.raises(RemoteProtocolError):
        JournalWriter.open(tmp_path)


def test_a_segment_begun_but_not_renamed_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "0000000000000002.new").write_bytes(b"half")
    JournalWriter.open(tmp_path).close()
    assert segment_numbers(tmp_path) == [1]
    assert not list(tmp_path.glob("*.new"))


def test_the_table_forgets_the_stream_that_rested_longest() -> None:
    table = OffsetTable(streams_per_identity=2)
    table.update({("a", "1"): 10, ("a", "2"): 20, ("b", "1"): 1})
    table.update({("a", "1"): 11})
    table.update({("a", "3"): 30})
    assert table.entries() == {("b", "1"): 1, ("a", "1"): 11, ("a", "3"): 30}
    assert table.get(("a", "2")) == 0
