"""The log's files: their order, whole lines, ends and what is not ours; and being told that they changed."""

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import pytest

from decnet_core.errors import RemoteProtocolError
from decnet_core.shipping.control import MAX_LINE_BYTES
from decnet_logship.tail import BLOCK_BYTES, Foreign, Hole, LogFile, rotated_files
from decnet_logship.wakeup import watch
from tests.shipping.place import Log
from tests.shipping.receiving import WAIT_SECS


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "events.log")


def opened(path: Path) -> LogFile:
    file = LogFile.open(path)
    assert file is not None
    return file


def test_whole_lines_only_and_all_of_them(log: Log) -> None:
    lines = [b"%d" % number * (number % 90 + 1) for number in range(20_000)]
    log.write(*lines)
    log.append(b"half")
    with contextlib.closing(opened(log.path)) as file:
        assert file.generation == log.generation
        data = b""
        while piece := file.read(len(data)):
            assert isinstance(piece, bytes)
            assert piece.endswith(b"\n")
            assert len(piece) <= BLOCK_BYTES
            data += piece
        assert data.split(b"\n")[:-1] == log.written[log.generation]


@pytest.mark.parametrize("length", [BLOCK_BYTES, MAX_LINE_BYTES - 1, MAX_LINE_BYTES])
def test_a_line_up_to_the_bound_is_read_whole(log: Log, length: int) -> None:
    start = log.path.stat().st_size
    log.write(b"x" * length, b"next")
    with contextlib.closing(opened(log.path)) as file:
        piece = file.read(start)
        assert isinstance(piece, bytes)
        assert piece.split(b"\n")[0] == b"x" * length


def test_a_longer_line_is_a_hole_once_its_end_is_there(log: Log) -> None:
    start = log.path.stat().st_size
    with contextlib.closing(opened(log.path)) as file:
        log.append(b"x" * (MAX_LINE_BYTES + 1))
        assert file.read(start) is None
        log.append(b"x" * (2 << 20))
        assert file.read(start) is None
        log.append(b"\nnext\n")
        assert file.read(start) == Hole(MAX_LINE_BYTES + 1 + (2 << 20) + 1)
        assert file.read(start + MAX_LINE_BYTES + 2 + (2 << 20)) == b"next\n"


def test_an_open_file_follows_its_renaming_and_learns_that_it_is_final(log: Log) -> None:
    with contextlib.closing(opened(log.path)) as file:
        assert not file.is_final(log.path)
        renamed = log.path.with_name(f"events.log.{log.generation}")
        log.path.rename(renamed)
        assert not file.is_final(log.path), "the writer may still be between rename and the next file"
        with renamed.open("ab") as late:
            late.write(b"late\n")
        log.generation = ""
        log.begin()
        assert file.is_final(log.path)
        assert file.is_at(renamed)
        size = file.size_bytes()
        assert file.read(size - 5) == b"late\n"


def test_a_file_that_was_cut_is_not_read_on(log: Log) -> None:
    log.write(b"one", b"two")
    size = log.path.stat().st_size
    with contextlib.closing(opened(log.path)) as file:
        log.cut(size - 1)
        with pytest.raises(RemoteProtocolError):
            file.read(size)


def test_rotated_files_come_oldest_first(log: Log) -> None:
    generations = []
    for number in range(6):
        generations.append(log.generation)
        os.utime(log.path, ns=(0, 1_000 - number if number < 3 else 2_000 + number))
        log.begin()
    log.path.with_name("events.log.foreign-0123").touch()
    log.path.with_name("events.log.1").touch()
    expected = [generations[index] for index in (2, 1, 0, 3, 4, 5)]
    assert [path.suffix[1:] for path in rotated_files(log.path)] == expected
    assert rotated_files(log.path.parent / "absent" / "events.log") == []


@pytest.mark.parametrize("content", [b"", b"<166>1 half a header"])
def test_a_header_that_is_not_there_yet_is_waited_for(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "events.log"
    assert LogFile.open(path) is None
    path.write_bytes(content)
    assert LogFile.open(path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b"Nov 23 12:00:00 host sshd[1]: no header\n",
        b"<166>1 - w1 decnet - log.opened - no generation\n",
        b'<166>1 - w1 ssh - login.failed [relay@55555 generation="' + b"0" * 32 + b'"]\n',
        b"x" * 5000,
    ],
)
def test_a_file_of_another_kind_is_not_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "events.log"
    path.write_bytes(content)
    with pytest.raises(Foreign):
        LogFile.open(path)


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "socket"])
def test_what_is_no_file_is_not_ours_and_holds_nobody_up(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "events.log"
    match kind:
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(path))
    with pytest.raises(Foreign):
        LogFile.open(path)


async def test_a_change_in_the_folder_is_told_at_once(tmp_path: Path) -> None:
    woken = asyncio.Event()
    task = asyncio.create_task(watch(tmp_path, woken.set, safety_secs=600))
    try:
        for change in ("touch", "rename", "write"):
            await asyncio.wait_for(woken.wait(), WAIT_SECS)  # the first: it is subscribed
            woken.clear()
            if change == "touch":
                (tmp_path / "one").touch()
            elif change == "rename":
                (tmp_path / "one").rename(tmp_path / "two")
            else:
                (tmp_path / "two").write_bytes(b"x")
        await asyncio.wait_for(woken.wait(), WAIT_SECS)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_folder_that_is_not_there_yet_is_looked_for(tmp_path: Path) -> None:
    woken = asyncio.Event()
    task = asyncio.create_task(watch(tmp_path / "later", woken.set))
    try:
        for number in range(4):
            await asyncio.wait_for(woken.wait(), WAIT_SECS)
            woken.clear()
            (tmp_path / "later").mkdir(exist_ok=True)
            (tmp_path / "later" / f"{number}").touch()
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
