"""A disk that does not take a block: nothing is promised, nothing half stays, and it goes on when there is room."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from decnet_core.errors import RetryLater
from decnet_master.journal.reader import JournalReader
from decnet_master.journal.segments import segment_numbers, segment_path
from decnet_master.journal.writer import JournalWriter
from tests.journal.blocks import SENDER, block, lines_of, read_all

LINE = b"x" * 9_999


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    """The kernel refuses to let a file of this process grow beyond 64 KiB, in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("file_size_limit")
def test_a_write_cut_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    writer, reader = JournalWriter.open(tmp_path), JournalReader(tmp_path)
    writer.append([block(0, LINE), block(10_000, LINE)])
    before = writer.end
    big = [block(20_000 + number * 10_000, LINE) for number in range(6)]
    for _ in range(3):
        with pytest.raises(RetryLater):
            writer.append(big)
    assert writer.end == before
    assert segment_path(tmp_path, 1).stat().st_size == before.offset
    assert writer.durable_offset(SENDER, "s1") == 20_000
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    writer.append(big)
    assert lines_of(read_all(reader)) == [LINE] * 8
    writer.close()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.root
@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux")
def test_a_full_disk_stops_and_goes_on_when_there_is_room(tiny_disk: Path) -> None:
    folder, ballast = tiny_disk / "journal", tiny_disk / "ballast"
    writer, reader = JournalWriter.open(folder, segment_bytes=60_000), JournalReader(folder)
    ballast.write_bytes(bytes(100_000))
    appended = refused = 0
    while appended < 30:
        try:
            writer.append([block(appended * 10_000, LINE)])
        except RetryLater:
            refused += 1
            assert writer.durable_offset(SENDER, "s1") == appended * 10_000
            assert len(lines_of(read_all(reader))) >= appended - deleted_lines(folder)
            if refused == 3:
                ballast.unlink()
            elif refused > 3:  # the ingester has read all and gives the disk back
                reader.delete_before(read_all(reader)[-1].next)
            continue
        appended += 1
    assert refused > 3
    writer.close()
    writer = JournalWriter.open(folder)
    assert writer.durable_offset(SENDER, "s1") == 300_000
    batches = read_all(reader)
    assert batches[-1].end == 300_000
    assert all(before.end == after.start for before, after in pairwise(batches))
    writer.close()


def deleted_lines(folder: Path) -> int:
    """Each deleted segment of 60,000 bytes held six lines."""
    return 6 * (segment_numbers(folder)[0] - 1)
