"""The watermark: a journal that is full refuses, opens by itself, and not for every byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from decnet_core.errors import RetryLater
from decnet_master.journal.quota import JournalFull, Quota, Watermark, usage
from decnet_master.journal.reader import JournalReader
from decnet_master.journal.writer import LARGE_BYTES, JournalWriter
from tests.journal.blocks import SENDER, block, lines_of, read_all

LINE = b"x" * 9_999


def filled(folder: Path, quota: Quota) -> tuple[JournalWriter, int]:
    """Append until it refuses; how many blocks it took."""
    writer = JournalWriter.open(folder, segment_bytes=25_000, quota=quota)
    for number in range(100):
        try:
            writer.append([block(number * 10_000, LINE)])
        except JournalFull:
            return writer, number
    pytest.fail("it never refused")


def test_above_its_quota_it_refuses_and_nothing_changes(tmp_path: Path) -> None:
    writer, taken = filled(tmp_path, Quota(limit_bytes=100_000))
    assert usage(tmp_path).journal_bytes <= 100_000
    before = writer.end
    for _ in range(3):
        with pytest.raises(RetryLater) as refused:
            writer.append([block(taken * 10_000, LINE)])
        assert "journal-quota-mib" in refused.value.advice
    assert (writer.end, writer.durable_offset(SENDER, "s1")) == (before, taken * 10_000)
    writer.append([])  # publishing takes no room
    assert lines_of(read_all(JournalReader(tmp_path))) == [LINE] * taken
    writer.close()


def test_what_a_segment_begins_with_counts_too(tmp_path: Path) -> None:
    quota = Quota(limit_bytes=100_000)
    writer, number = JournalWriter.open(tmp_path, segment_bytes=3_000, quota=quota), 0
    for number in range(1000):  # many senders and short segments: what grows is the table that each begins with
        try:
            writer.append([block(0, b"x" * 200, identity=f"logship@worker-{number:04}")])
        except JournalFull:
            break
    assert 20 < number < 500
    assert usage(tmp_path).journal_bytes <= quota.limit_bytes
    writer.close()


def test_it_opens_by_itself_when_segments_were_deleted(tmp_path: Path) -> None:
    writer, taken = filled(tmp_path, Quota(limit_bytes=100_000))
    reader = JournalReader(tmp_path)
    last = read_all(reader)[-1].next
    reader.delete_before(last)
    writer.append([block(taken * 10_000, LINE)])
    assert usage(tmp_path).journal_bytes < 100_000
    writer.close()


def test_a_journal_that_was_full_opens_below_the_watermark_only(tmp_path: Path) -> None:
    (tmp_path / "0000000000000001.seg").write_bytes(bytes(790))
    (tmp_path / "0000000000000002.seg").write_bytes(bytes(110))
    mark = Watermark(tmp_path, Quota(limit_bytes=1_000))
    mark.admit(100)  # 1,000 of 1,000
    with pytest.raises(JournalFull):
        mark.admit(101)
    (tmp_path / "0000000000000002.seg").write_bytes(bytes(50))
    with pytest.raises(JournalFull):
        mark.admit(50)  # would have fitted before it was full; now an eighth must be free
    (tmp_path / "0000000000000002.seg").write_bytes(bytes(30))
    mark.admit(50)
    mark.admit(50)  # and from there on it may be filled again


def test_the_disk_keeps_what_others_need(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    writer = JournalWriter.open(tmp_path, quota=Quota(min_free_bytes=free * 2))
    with pytest.raises(JournalFull, match="must stay free"):
        writer.append([block(0, b"one")])
    assert writer.durable_offset(SENDER, "s1") == 0
    writer.close()


def test_opening_does_not_mind_a_full_journal(tmp_path: Path) -> None:
    writer, taken = filled(tmp_path, Quota(limit_bytes=100_000))
    writer.close()
    writer = JournalWriter.open(tmp_path, quota=Quota(limit_bytes=50_000))
    assert writer.durable_offset(SENDER, "s1") == taken * 10_000
    with pytest.raises(JournalFull):
        writer.append([block(taken * 10_000, LINE)])
    writer.close()


def test_small_and_large_blocks_are_written_in_their_order(tmp_path: Path) -> None:
    writer, reader = JournalWriter.open(tmp_path), JournalReader(tmp_path)
    lines = [b"%d" % number * (LARGE_BYTES if number % 3 == 0 else 5) for number in range(2_000)]
    at, blocks = 0, []
    for line in lines:
        blocks.append(block(at, line))
        at = blocks[-1].end
    writer.append(blocks)
    assert lines_of(read_all(reader)) == lines
    writer.close()
