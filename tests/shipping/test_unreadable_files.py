"""A file that cannot be looked at or read keeps nobody from the others, is told, and is shipped once it can be read."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from decnet_core.errors import Unavailable
from decnet_logship.rotation import ASIDE_SECS
from decnet_logship.tail import Unreadable
from tests.shipping.place import Log, Place, streams
from tests.shipping.receiving import reached, receiving
from tests.shipping.rotating import LABEL, Reader, Their
from tests.shipping.test_files import texts
from tests.shipping.test_shipping import shipping, state_of

# linux/capability.h
_VERSION_3 = 0x2008_0522
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2

pytestmark = pytest.mark.usefixtures("modes_count")


@pytest.fixture
def modes_count() -> Iterator[None]:
    """Let modes of files bind this thread, though root runs it."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, before = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    fewer = (ctypes.c_uint32 * 6)(*before)
    fewer[0] &= ~(_DAC_OVERRIDE | _DAC_READ_SEARCH)
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


@contextmanager
def shut(path: Path) -> Iterator[None]:
    """Let nobody into a file or a folder."""
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        yield
    finally:
        path.chmod(mode)


def lame(path: Path, descriptor: int) -> None:
    """Make a descriptor of a file one that nothing can be read from, as of a broken disk; what it is of stays."""
    other = os.open(path, os.O_WRONLY)
    os.dup2(other, descriptor)
    os.close(other)


def test_a_rotated_file_that_may_not_be_read_is_told_and_the_others_are_shipped(tmp_path: Path) -> None:
    their = Their(tmp_path / "their.log")
    reader = Reader(their.path)
    reader.read()
    their.write(2)
    their.rotate_by_rename()
    rotated = tmp_path / "their.log.1"
    with shut(rotated), capture_logs() as logs:
        for _ in range(2):
            reader.restart()
            reader.read()
    told = [line for line in logs if line["log_level"] == "error"]
    assert [(line["event"], line["path"]) for line in told] == [("file.unreadable", str(rotated))] * 2
    assert reader.lines == their.written[:3] + their.written[5:]
    assert (reader.rotation.gaps, reader.rotation.lost_bytes) == (0, 0), "it is not gone"
    reader.restart()
    reader.read()
    assert sorted(reader.lines) == sorted(their.written), "each once"


def test_an_old_file_that_may_not_be_read_hides_no_loss(tmp_path: Path) -> None:
    their = Their(tmp_path / "their.log")
    old = tmp_path / "their.log.old"
    old.write_bytes(b"from before\n")
    os.utime(old, (1, 1))
    reader = Reader(their.path)
    reader.read()
    their.write(2)
    reader.rotation.next_file()
    reader.remember()
    their.rotate_by_rename()
    (tmp_path / "their.log.1").unlink()
    with shut(old):
        reader.restart()
        reader.read()
    assert reader.rotation.gaps == 1


def test_the_log_itself_may_not_be_read_and_what_was_rotated_is_shipped(tmp_path: Path) -> None:
    log = Log(tmp_path / "events.log")
    log.write(b"rotated")
    first = log.generation
    log.begin()
    reader = Reader(log.path, ours=True)
    with shut(log.path), pytest.raises(Unreadable, match="Permission denied"):
        reader.read()
    assert reader.master == {first: log.written[first]}
    reader.read()
    assert reader.master == log.written


def test_whether_a_file_is_final_is_not_known_while_its_folder_is_shut(tmp_path: Path) -> None:
    their = Their(tmp_path / "their.log")
    reader = Reader(their.path)
    file = reader.rotation.next_file()
    assert file is not None
    their.rotate_by_rename()
    with shut(tmp_path):
        with pytest.raises(Unavailable) as fault:
            reader.rotation.is_final(file)
        assert not isinstance(fault.value, Unreadable), "the folder's fault is none of the file's"
        reader.rotation.set_aside()
    assert reader.rotation.next_file() is file
    assert reader.rotation.is_final(file)


def test_a_folder_that_is_shut_is_unavailable(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    their = Their(folder / "their.log")
    reader = Reader(their.path)
    with shut(folder), pytest.raises(Unavailable, match="Permission denied"):
        reader.rotation.next_file()
    reader.read()
    assert reader.lines == their.written


def test_a_rotated_file_on_a_broken_disk_is_set_aside(tmp_path: Path) -> None:
    their = Their(tmp_path / "their.log")
    reader = Reader(their.path)
    file = reader.rotation.next_file()
    assert file is not None
    assert file.seek(0)
    reader.rotation.placed(file)
    their.rotate_by_rename()
    lame(tmp_path / "their.log.1", file.descriptor)
    with capture_logs() as logs:
        with pytest.raises(Unreadable):
            file.read()
        reader.rotation.set_aside()
        reader.read()
    assert [line["again_in_secs"] for line in logs if line["event"] == "file.set_aside"] == [ASIDE_SECS]
    assert reader.lines == their.written[3:]
    assert reader.rotation.gaps == 0
    reader.restart()
    reader.read()
    assert list(reader.master.values())[1] == [LABEL + line for line in their.written[:3]]


def test_the_log_itself_is_never_set_aside(tmp_path: Path) -> None:
    their = Their(tmp_path / "their.log")
    reader = Reader(their.path)
    file = reader.rotation.next_file()
    reader.rotation.set_aside()
    assert reader.rotation.next_file() is file


def test_a_file_of_which_the_end_cannot_be_looked_at_any_more_is_finished_and_kept(tmp_path: Path) -> None:
    """The master has all of it; what cannot be read cannot be said to be removed in good order."""
    log = Log(tmp_path / "events.log")
    first = log.generation
    log.begin()
    reader = Reader(log.path, ours=True)
    file = reader.rotation.next_file()
    assert file is not None
    assert file.seek(0)
    assert reader.rotation.is_final(file)
    assert file.read() is not None
    file.acked(file.offset)
    lame(tmp_path / f"events.log.{first}", file.descriptor)
    reader.rotation.finish(file)
    assert (tmp_path / f"events.log.{first}").exists()
    reader.read()
    assert list(reader.master) == [log.generation]


async def test_a_log_whose_folder_is_shut_ends_no_other_shipper(place: Place) -> None:
    log, folder = Log(place.log_path), place.folder / "theirs"
    folder.mkdir()
    their = Their(folder / "their.log")
    async with receiving(place) as master, shipping(place, master.endpoint, files=(their.path,)):
        await reached(lambda: texts(place, their.path) == their.written, "their lines")
        their.write(1)
        their.rotate_by_rename()
        with shut(folder):
            await reached(lambda: "Permission denied" in state_of(place, 1).last_error, "that it is told")
            log.write(b"ours goes on")
            await reached(lambda: streams(place.journal).get(log.generation) == log.written[log.generation], "ours")
        await reached(lambda: texts(place, their.path) == their.written, "the rest of theirs")
