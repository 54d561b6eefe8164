"""A disk that fails in ways that leave the segment's tail unknown: the writer goes on in a new segment or not at all.

The kernel's own devices stand in for the disk: the writer's descriptor is pointed at one of them for a while.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from decnet_core.errors import RetryLater
from decnet_master.journal.reader import JournalReader
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
