"""A disk that fails in ways that leave the segment's tail unknown: the writer goes on in a new segment or not at all.

The kernel's own devices stand in for the disk: the writer's descriptor is pointed at one of them for a while.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from decnet_core.errors import RetryLater
from decnet_master.journal.reader import JournalReader
from decnet_master.journal.record import encode_block
from decnet_master.journal.segments import segment_numbers
from decnet_master.journal.writer import JournalWriter
from tests.journal.blocks import SENDER, block, lines_of, read_all


@contextmanager
def disk_is(writer: JournalWriter, device: str) -> Iterator[None]:
    """Let the writer's segment be a device."""
    kept, other = os.dup(writer._fd), os.open(device, os.O_RDWR)
    os.dup2(other, writer._fd)
    try:
        yield
    finally:
        os.dup2(kept, writer._fd)
        os.close(kept)
        os.close(other)


# /dev/full refuses the write and cannot be cut; /dev/zero takes the write and cannot be synced.
@pytest.mark.parametrize("device", ["/dev/full", "/dev/zero"])
def test_a_tail_of_unknown_state_is_cut_and_left_behind(tmp_path: Path, device: str) -> None:
    writer, reader = JournalWriter.open(tmp_path), JournalReader(tmp_path)
    writer.append([block(0, b"one")])
    with disk_is(writer, device):
        for _ in range(3):
            with pytest.raises(RetryLater):
                writer.append([block(4, b"two")])
        assert writer.durable_offset(SENDER, "s1") == 4
        assert lines_of(read_all(reader)) == [b"one"]
    with (tmp_path / "0000000000000001.seg").open("ab") as segment:
        segment.write(b"what the failed write left behind")
    writer.append([block(4, b"two")])
    assert segment_numbers(tmp_path) == [1, 2]
    assert lines_of(read_all(reader)) == [b"one", b"two"]
    writer.close()
    writer = JournalWriter.open(tmp_path)
    assert writer.durable_offset(SENDER, "s1") == 8
    writer.close()


def test_a_segment_that_lost_what_was_acknowledged_is_acknowledged_from_no_more(tmp_path: Path) -> None:
    """A sync failed, and what stood there before is not there any more: the next append finds out, and so do all."""
    writer, path = JournalWriter.open(tmp_path), tmp_path / "0000000000000001.seg"
    writer.append([block(0, b"one"), block(4, b"two")])
    good = path.read_bytes()
    with disk_is(writer, "/dev/zero"), pytest.raises(RetryLater):
        writer.append([block(8, b"three")])
    path.write_bytes(good[:-9] + bytes(9))
    for _ in range(3):
        with pytest.raises(RetryLater) as refused:
            writer.append([block(8, b"three")])
        assert "as it was acknowledged" in refused.value.message
        assert "set-aside" in refused.value.advice
    assert (segment_numbers(tmp_path), writer.durable_offset(SENDER, "s1")) == ([1], 8)
    path.write_bytes(good)
    writer.append([block(8, b"three")])
    assert segment_numbers(tmp_path) == [1, 2]
    assert lines_of(read_all(JournalReader(tmp_path))) == [b"one", b"two", b"three"]
    writer.close()


def test_what_the_last_sync_may_not_have_reached_is_written_again(tmp_path: Path) -> None:
    """A listener whose sync failed was restarted: its pages are there and clean, and a sync alone would do nothing."""
    writer = JournalWriter.open(tmp_path)
    writer.append([block(0, b"one")])
    end = writer.end.offset
    writer.close()
    late = encode_block(block(4, b"x" * 100_000))
    path = tmp_path / "0000000000000001.seg"
    with path.open("ab") as segment:
        segment.write(late)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (end, hard))  # whatever is written behind there is refused
    try:
        with pytest.raises(RetryLater):
            JournalWriter.open(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert path.stat().st_size == end + len(late), "and nothing is cut that may be whole"
    writer = JournalWriter.open(tmp_path)
    assert writer.durable_offset(SENDER, "s1") == 100_005
    writer.close()


def test_no_new_segment_no_append(tmp_path: Path) -> None:
    """The folder is gone when the segment is full: refused until it is there again, and then nothing is missing."""
    folder, aside = tmp_path / "journal", tmp_path / "aside"
    writer, reader = JournalWriter.open(folder, segment_bytes=100), JournalReader(folder)
    writer.append([block(0, b"x" * 99)])
    folder.rename(aside)
    for _ in range(2):
        with pytest.raises(RetryLater):
            writer.append([block(100, b"two")])
    aside.rename(folder)
    writer.append([block(100, b"two")])
    assert lines_of(read_all(reader)) == [b"x" * 99, b"two"]
    writer.close()
