"""One file as a stream of lines: whole ones, long ones, its end; and being told that a folder changed."""

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decnet_core.shipping.control import MAX_LINE_BYTES
from decnet_logship.tail import BLOCK_BYTES, UNENDED, Cut, Foreign, Hole, LogFile, Replaced
from decnet_logship.wakeup import watch
from tests.shipping.place import Log
from tests.shipping.receiving import WAIT_SECS


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "events.log")


def opened(path: Path, max_line_bytes: int = MAX_LINE_BYTES, label: bytes = b"") -> LogFile:
    file = LogFile.open(path, max_line_bytes)
    assert file is not None
    file.label = label
    return file


def pieces(file: LogFile) -> list[bytes | Cut | Hole]:
    found: list[bytes | Cut | Hole] = []
    while (piece := file.read()) is not None:
        found.append(piece)
    return found


def test_whole_lines_only_and_all_of_them(log: Log) -> None:
    lines = [b"%d" % number * (number % 90 + 1) for number in range(20_000)]
    log.write(*lines)
    log.append(b"half")
    with contextlib.closing(opened(log.path)) as file:
        data = b""
        for piece in pieces(file):
            assert isinstance(piece, bytes)
            assert piece.endswith(b"\n")
            assert len(piece) <= BLOCK_BYTES
            data += piece
        assert data.split(b"\n")[:-1] == log.written[log.generation]
        assert file.read() is None, "the half line waits for its end"
        log.append(b" and whole\n")
        assert file.read() == b"half and whole\n"


def test_a_closed_file_ends_its_half_line_with_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"whole\nhalf")
    for label in (b"", b"<13>1 - h a - - - "):
        with contextlib.closing(opened(path, label=label)) as file:
            assert file.read() == label + b"whole\n"
            assert file.read() is None
            file.end_stream()
            last = label + b"half" + UNENDED + b"\n"
            assert pieces(file) == [last]
            file.acked(file.offset)
            assert file.acked_bytes == path.stat().st_size
            assert file.seek(file.offset - len(last))
            assert pieces(file) == [last]
            assert file.seek(file.offset)
            assert file.read() is None
            assert not file.seek(file.offset + 1)


@pytest.mark.parametrize("length", [BLOCK_BYTES, MAX_LINE_BYTES - 1, MAX_LINE_BYTES])
def test_a_line_up_to_the_bound_is_read_whole(log: Log, length: int) -> None:
    start = log.path.stat().st_size
    log.write(b"x" * length, b"next")
    with contextlib.closing(opened(log.path)) as file:
        assert file.seek(start)
        piece = file.read()
        assert isinstance(piece, bytes)
        assert piece.split(b"\n")[0] == b"x" * length


def test_a_longer_line_is_cut_once_its_end_is_there(log: Log) -> None:
    start = log.path.stat().st_size
    with contextlib.closing(opened(log.path)) as file:
        assert file.seek(start)
        log.append(b"x" * (MAX_LINE_BYTES + 1))
        assert file.read() is None
        log.append(b"x" * (2 << 20))
        assert file.read() is None
        log.append(b"\nnext\n")
        length = MAX_LINE_BYTES + 1 + (2 << 20)
        mark = b" [cut: %d bytes]" % length
        line = b"x" * (MAX_LINE_BYTES - len(mark)) + mark + b"\n"
        assert file.read() == Cut(line, length + 1 - len(line))
        assert file.read() == b"next\n"
        assert file.seek(start + len(line)), "the master has the piece and not the hole"
        assert pieces(file) == [Hole(length + 1 - len(line)), b"next\n"]


def test_a_cut_leaves_no_half_character(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for size, character in enumerate(("é", "日", "🍯"), start=2):
        path.write_bytes(("x" + character * 2000 + "\n").encode())
        with contextlib.closing(opened(path, 1024)) as file:
            piece = file.read()
            assert isinstance(piece, Cut)
            text, mark, _ = piece.line.partition(b" [cut: ")
            assert mark
            assert len(text.decode()) * size > 1024 - 32
            assert set(text.decode()[1:]) == {character}
    path.write_bytes(b"\xff\x80" * 2000 + b"\n")
    with contextlib.closing(opened(path, 1024)) as file:
        piece = file.read()
        assert isinstance(piece, Cut)
        assert len(piece.line) == 1025, "what is not UTF-8 is cut where the bound is"


LABEL = b"<134>1 - w1 auth.log - - - "
lines_of_a_file = st.lists(
    st.one_of(
        st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")),
        st.integers(900, 1200).map(lambda length: b"\xe9" * length),
        st.integers(1000, 5000).map(lambda length: b"y" * length),
    ),
    max_size=40,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=lines_of_a_file, half=st.binary(max_size=5).map(lambda data: data.replace(b"\n", b"")), data=st.data())
@pytest.mark.parametrize("label", [b"", LABEL])
def test_reading_goes_on_from_every_place_where_a_frame_ended(
    tmp_path: Path, label: bytes, lines: list[bytes], half: bytes, data: st.DataObject
) -> None:
    """Whatever the master has, whole frames of it, the rest of the stream is the same bytes at the same offsets."""
    path = tmp_path / "log"
    path.write_bytes(b"".join(line + b"\n" for line in lines) + half)
    with contextlib.closing(opened(path, 1024, label)) as file, contextlib.closing(opened(path, 1024, label)) as again:
        file.end_stream()
        again.end_stream()
        sent: dict[int, bytes] = {}  # what stands at which offset
        offsets, at = [0], 0
        for piece in pieces(file):
            text = piece.line if isinstance(piece, Cut) else piece
            assert isinstance(text, bytes)
            for line in text.split(b"\n")[:-1]:
                assert len(line) <= len(label) + 1024
                sent[at] = line
                at += len(line) + 1
                offsets.append(at)
            at += piece.rest if isinstance(piece, Cut) else 0
        assert len(sent) == len(lines) + bool(half)
        assert file.offset == at
        offset = data.draw(st.sampled_from(offsets))
        assert again.seek(offset)
        for piece in pieces(again):
            text = piece.line if isinstance(piece, Cut) else piece
            for line in text.split(b"\n")[:-1] if isinstance(text, bytes) else ():
                assert sent[offset] == line
                offset += len(line) + 1
            offset += piece.rest if isinstance(piece, Cut) else piece.length if isinstance(piece, Hole) else 0
        assert offset == at
        assert again.acked_bytes <= path.stat().st_size


@pytest.mark.parametrize("label", [b"", LABEL])
def test_an_offset_that_no_frame_ended_at_is_of_another_file(tmp_path: Path, label: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one line\nand another one\n")
    with contextlib.closing(opened(path, label=label)) as file:
        ends = {0, len(label) + 9, 2 * len(label) + 25}
        assert {offset for offset in range(120) if file.seek(offset)} == ends


@pytest.mark.parametrize(
    ("label", "offset", "then"),
    [
        (b"", 12, [b" another one\nmore\n"]),
        (LABEL, len(LABEL) + 12, [Hole(len(LABEL) + 13), LABEL + b"more\n"]),
    ],
)
def test_a_file_with_another_line_at_an_offset_can_be_gone_on_with_anyway(
    tmp_path: Path, label: bytes, offset: int, then: list[bytes | Hole]
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one line\nand another one\nmore\n")
    with contextlib.closing(opened(path, label=label)) as file:
        assert not file.seek(offset)
        assert file.seek(offset, anyway=True)
        assert pieces(file) == then
        assert not file.seek(200, anyway=True)


def test_acknowledgements_are_counted_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a\nb\n")
    with contextlib.closing(opened(path, label=LABEL)) as file:
        file.read()
        first = file.offset
        with path.open("ab") as more:
            more.write(b"c\n")
        file.read()
        file.acked(first - 1)
        assert file.acked_bytes == 0
        file.acked(first)
        assert file.acked_bytes == 4
        file.acked(file.offset)
        assert file.acked_bytes == 6


@pytest.mark.parametrize("then", [b"", b"short\n", b"another beginning, longer than what was there before\n" * 9])
def test_what_was_written_anew_is_found_out_and_not_handed_out(tmp_path: Path, then: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(20)))
    with contextlib.closing(opened(path)) as file:
        assert file.read() is not None
        path.write_bytes(then)
        with pytest.raises(Replaced):
            file.read()


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
