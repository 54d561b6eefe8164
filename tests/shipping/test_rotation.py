"""Which file is which, over rotations of every kind: what is shipped is each line once, whatever happened to the files.

What happens while the master cannot be reached is in `test_rotation_outages`.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from decnet_core.errors import RemoteProtocolError, Unavailable
from decnet_logship.generations import Register
from decnet_logship.rotation import LINGER_SECS, Rotation
from decnet_logship.tail import UNENDED, Foreign
from tests.shipping.place import Log
from tests.shipping.rotating import LABEL, Reader, Their


@pytest.fixture
def their(tmp_path: Path) -> Their:
    return Their(tmp_path / "their.log")


ROTATIONS = [Their.rotate_by_rename, Their.rotate_by_copy]
rotations = pytest.mark.parametrize("rotate", ROTATIONS)


@rotations
def test_what_was_written_before_a_rotation_is_read_after_it(their: Their, rotate: Callable[[Their], None]) -> None:
    reader = Reader(their.path)
    reader.read()
    assert reader.lines == their.written
    their.write(5)
    rotate(their)
    reader.read()
    their.write(2)
    reader.read()
    assert reader.lines == their.written
    assert len(reader.master) == 2
    assert reader.rotation.lost_bytes == 0


@rotations
@pytest.mark.parametrize("same_beginning", [b"", b"a banner that every file begins with " * 60])
def test_several_rotations_while_nobody_read(
    tmp_path: Path, rotate: Callable[[Their], None], same_beginning: bytes
) -> None:
    their = Their(tmp_path / "their.log", same_beginning)
    reader = Reader(their.path)
    reader.read()
    for _ in range(4):
        their.write(3)
        rotate(their)
        their.write(2)
    reader.restart()
    reader.read()
    assert [line for line in reader.lines if line[:6] != b"a bann"] == [
        line for line in their.written if line[:6] != b"a bann"
    ]
    assert len(reader.master) == 5
    reader.restart()
    reader.read()
    assert len(reader.lines) == len(their.written), "a restart sends nothing twice"


def test_a_stale_place_on_a_reused_inode_is_not_believed(their: Their) -> None:
    reader = Reader(their.path)
    reader.read()
    inode = their.path.stat().st_ino
    content = b"".join(b"another log, line %d\n" % number for number in range(50))
    their.path.write_bytes(content)  # the same inode, longer than before
    assert their.path.stat().st_ino == inode
    reader.restart()
    reader.read()
    assert reader.lines == their.written + content.split(b"\n")[:-1]


@pytest.mark.parametrize("size", [10, 63])
def test_a_short_beginning_proves_nothing_once_something_happened(tmp_path: Path, size: int) -> None:
    path = tmp_path / "their.log"
    path.write_bytes(b"x" * (size - 1) + b"\n")
    reader = Reader(path)
    reader.read()
    reader.restart()
    reader.read()
    assert len(reader.lines) == 1, "nothing happened to it: the same file"
    path.write_bytes(b"x" * (size - 1) + b"\n")  # the same words again, in the same inode
    os.utime(path, (1, 1))
    reader.restart()
    reader.read()
    assert len(reader.lines) == 2


def test_a_file_that_was_truncated_without_a_copy_is_said_to_be_lost(their: Their) -> None:
    reader = Reader(their.path)
    reader.read()
    had = len(reader.lines)
    their.write(5)
    reader.rotation.next_file()
    reader.register.write()
    lost = their.path.stat().st_size
    os.truncate(their.path, 0)
    their.write(1)
    reader.read()
    assert reader.lines[had:] == their.written[-1:]
    assert lost > reader.rotation.lost_bytes >= 0


def test_a_rotated_file_that_was_compressed_is_read_from_the_open_descriptor(their: Their) -> None:
    reader = Reader(their.path)
    reader.read()
    their.write(4)
    their.rotate_by_rename()
    rotated = their.path.with_name("their.log.1")
    rotated.with_suffix(".1.gz").write_bytes(b"\x1f\x8b")
    rotated.unlink()
    reader.read()
    assert reader.lines == their.written


def test_a_rotated_file_that_is_gone_before_a_restart_is_said_to_be_lost(their: Their) -> None:
    reader = Reader(their.path)
    reader.read()
    their.write(4)
    reader.rotation.remember()
    reader.register.write()
    their.rotate_by_rename()
    their.path.with_name("their.log.1").unlink()
    reader.restart()
    reader.read()
    assert (reader.rotation.gaps, reader.rotation.lost_bytes) == (1, 4 * 68)
    assert reader.lines[-1] == their.written[-1]


def test_older_files_and_copies_beside_the_log_are_left_alone(their: Their) -> None:
    old = their.path.with_name("their.log.7")
    old.write_bytes(b"from before it was followed, and long enough to be told from others by its beginning\n" * 3)
    os.utime(old, (1, 1))
    reader = Reader(their.path)
    reader.read()
    shutil.copyfile(their.path, their.path.with_name("their.log.bak"))
    their.write(1)
    their.rotate_by_rename()
    reader.read()
    reader.restart()
    reader.read()
    assert reader.lines == their.written


def test_a_writer_that_has_not_reopened_yet_is_waited_for(their: Their) -> None:
    reader = Reader(their.path)
    reader.read()
    with their.path.open("ab") as held:
        their.rotate_by_rename()
        held.write(b"late line, half of it now")
        held.flush()
        reader.read()
        assert len(reader.master) == 1, "the rotated file was written just now"
        held.write(b" and half later\n")
    rotated = their.path.with_name("their.log.1")
    os.utime(rotated, (time.time() - LINGER_SECS - 1,) * 2)
    reader.read()
    (first, second) = reader.master.values()
    assert first[-1] == LABEL + b"late line, half of it now and half later"
    assert second == [LABEL + their.written[-1]]


def test_a_file_that_was_truncated_and_then_renamed_before_it_was_looked_at(their: Their) -> None:
    """The master's place lies behind the end of what the descriptor holds now: the rest is in the copy."""
    reader = Reader(their.path)
    their.write(50)
    reader.read()
    their.write(5)
    their.rotate_by_copy()
    their.write(2)
    their.rotate_by_rename()
    reader.read()
    assert reader.lines == their.written
    assert reader.rotation.lost_bytes == 0


@rotations
def test_rotations_while_a_rotated_file_is_still_waited_for(their: Their, rotate: Callable[[Their], None]) -> None:
    """What was at the path when the reader looked is two files further by the time its turn comes."""
    reader = Reader(their.path)
    reader.read()
    their.write(2)
    written_at = their.now
    their.rotate_by_rename()
    waited_for = their.path.with_name("their.log.1").rename(their.path.with_name("their.log-waited-for"))
    os.utime(waited_for)
    reader.restart()
    reader.read()
    assert len(reader.master) == 1, "the rotated file was written just now"
    for _ in range(2):
        their.write(2)
        rotate(their)
        their.write(1)
    os.utime(waited_for, (written_at, written_at))
    reader.read()
    assert reader.lines == their.written
    assert len(reader.master) == 4
    assert reader.rotation.lost_bytes == 0


def test_a_half_line_at_the_end_of_a_rotated_file_is_sent_with_a_mark(their: Their) -> None:
    reader = Reader(their.path)
    reader.read()
    with their.path.open("ab") as file:
        file.write(b"no end")
    their.later()
    their.rotate_by_rename()
    reader.read()
    assert reader.lines == [*their.written[:-1], b"no end" + UNENDED, their.written[-1]]
    reader.restart()
    reader.read()
    assert len(reader.lines) == len(their.written) + 1


def test_a_long_line_is_cut_and_binary_junk_is_kept(their: Their) -> None:
    junk = bytes(range(10)) + bytes(range(11, 256))
    with their.path.open("ab") as file:
        file.write(junk + b"\n" + b"y" * 20_000 + b"\n\n")
    their.later()
    reader = Reader(their.path)
    reader.read()
    mark = b" [cut: 20000 bytes]"
    assert reader.lines == [*their.written, junk, b"y" * (8192 - len(mark)) + mark, b""]


@pytest.mark.parametrize("damage", [b"", b"{", b"[" * 99_999, b"[]", b'{"%s": [1, {}, {"stream": 1}]}', b'{"%s": 3}'])
def test_a_torn_register_repeats_rather_than_loses(their: Their, damage: bytes) -> None:
    reader = Reader(their.path)
    reader.read()
    reader.state.write_bytes(damage.replace(b"%s", str(their.path).encode()))
    their.write(2)
    reader.restart()
    reader.read()
    assert list(reader.master.values())[-1] == [LABEL + line for line in their.written]


def test_a_generation_is_remembered_before_the_master_hears_of_it(their: Their) -> None:
    reader = Reader(their.path)
    file = reader.rotation.next_file()
    assert file is not None
    assert [one.stream for one in Register(reader.state).of(their.path)] == [file.generation]
    reader.state.unlink()
    reader.state.mkdir()  # cannot be written
    other = Rotation(their.path, Register(reader.state), LABEL)
    with pytest.raises(Unavailable):
        other.next_file()


def test_our_own_log_needs_no_memory(tmp_path: Path) -> None:
    log = Log(tmp_path / "events.log")
    reader = Reader(log.path, ours=True)
    for number in range(3):
        log.write(b"file %d" % number)
        log.begin()
        reader.state.unlink(missing_ok=True)
        reader.restart()
        reader.read()
    assert reader.master == log.written
    assert [path.name for path in sorted(tmp_path.glob("events.log*"))] == ["events.log"]


def test_a_kill_just_after_a_file_was_removed_is_no_loss(tmp_path: Path) -> None:
    log = Log(tmp_path / "events.log")
    reader = Reader(log.path, ours=True)
    reader.read()
    log.write(b"known to be there", b"and not acknowledged when that was last written down")
    log.begin()
    file = reader.rotation.next_file()
    assert file is not None
    assert file.seek(reader.ends[file.generation])
    reader.rotation.placed(file)
    reader.register.write()
    while (piece := file.read()) is not None:
        assert isinstance(piece, bytes)
        file.acked(file.offset)
    assert reader.rotation.is_final(file)
    reader.rotation.finish(file)
    assert [path.name for path in tmp_path.glob("events.log*")] == ["events.log"]
    reader.restart()
    assert reader.rotation.next_file() is not None
    assert (reader.rotation.gaps, reader.rotation.lost_bytes) == (0, 0)


@pytest.mark.parametrize("restarted", [False, True])
def test_our_own_log_survives_a_rotation_by_copy(tmp_path: Path, restarted: bool) -> None:
    log = Log(tmp_path / "events.log")
    reader = Reader(log.path, ours=True)
    log.write(b"read")
    reader.read()
    log.write(b"read from the copy")
    shutil.copyfile(log.path, tmp_path / "events.log.1")
    os.truncate(log.path, 0)
    log.append(b"without a first line\n" + b"the agent knows nothing of it\n" * 3)
    if restarted:
        reader.restart()
    reader.read()
    log.append(b"more\n")
    reader.read()
    first, second = reader.master.values()
    assert first == log.written[log.generation]
    assert second == [b"without a first line", *[b"the agent knows nothing of it"] * 3, b"more"]
    log.path.rename(tmp_path / "events.log.foreign-0123")  # what the agent does with it at its next start
    log.generation = ""
    log.begin()
    reader.restart()
    reader.read()
    assert list(reader.master.values())[2:] == [log.written[log.generation]]


def test_our_own_log_after_a_power_cut_waits_for_the_agent(tmp_path: Path) -> None:
    log = Log(tmp_path / "events.log")
    log.write(b"one", b"two")
    reader = Reader(log.path, ours=True)
    reader.read()
    reader.state.unlink()
    log.cut(log.path.stat().st_size - 4)
    reader.restart()
    with pytest.raises(RemoteProtocolError, match="was cut"):
        reader.read()
    log.begin()
    log.write(b"after the boot")
    reader.read()
    assert reader.master == {**log.written}
    assert not (tmp_path / f"events.log.{next(iter(log.written))}").exists()


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("more", [b"three\nfour\n", b"three\nhalf a line", b"half a line"])
def test_lines_behind_a_block_that_a_power_cut_took_of_our_own_log_are_shipped(
    tmp_path: Path, more: bytes, remembered: bool
) -> None:
    """The master has a line that the file has not any more, and the file has lines that the master has not."""
    log = Log(tmp_path / "events.log")
    log.write(b"one", b"two")
    reader = Reader(log.path, ours=True)
    reader.read()
    generation, rotated = log.generation, tmp_path / f"events.log.{log.generation}"
    log.path.write_bytes(log.path.read_bytes().replace(b"two\n", b"\0\0\0\0") + more)
    other_boot(reader)
    if not remembered:
        reader.state.unlink()
    log.begin()
    for _ in range(2):
        reader.restart()
        reader.read()
        wanted = more if more.endswith(b"\n") else more + UNENDED + b"\n"
        assert reader.master[generation] == [*log.written[generation], *wanted.split(b"\n")[:-1]]
        assert reader.master[log.generation] == log.written[log.generation]
        assert rotated.exists()  # it holds what the master has not


def test_a_file_that_grew_after_it_was_final_is_not_removed(tmp_path: Path) -> None:
    log = Log(tmp_path / "events.log")
    log.begin()
    reader = Reader(log.path, ours=True)
    file = reader.rotation.next_file()
    assert file is not None
    assert file.seek(0)
    reader.rotation.placed(file)
    assert reader.rotation.is_final(file)
    assert file.read() is not None
    file.acked(file.offset)
    rotated = tmp_path / f"events.log.{file.generation}"
    with rotated.open("ab") as more:
        more.write(b"late\n")
    reader.rotation.finish(file)
    assert rotated.read_bytes().endswith(b"late\n")


def other_boot(reader: Reader) -> None:
    """Make what is remembered of another boot."""
    reader.state.write_bytes(reader.state.read_bytes().replace(b'"boot_id": "', b'"boot_id": "0'))


def test_the_register_may_be_of_another_boot(their: Their) -> None:
    """A power cut takes the end of somebody else's log after the master had it: what is there now is sent again."""
    reader = Reader(their.path)
    reader.read()
    other_boot(reader)
    os.truncate(their.path, their.path.stat().st_size - 68)
    reader.restart()
    reader.read()
    assert list(reader.master.values())[-1] == [LABEL + line for line in their.written[:-1]]


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
def test_a_file_of_another_kind_is_not_our_event_log(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "events.log"
    path.write_bytes(content)
    with pytest.raises(Foreign):
        Reader(path, ours=True).read()


@pytest.mark.parametrize("content", [None, b"", b"<166>1 half a header"])
def test_a_first_line_that_is_not_there_yet_is_waited_for(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "events.log"
    if content is not None:
        path.write_bytes(content)
    reader = Reader(path, ours=True)
    reader.read()
    assert reader.lines == []


def test_rotated_files_of_ours_are_shipped_oldest_first_and_strangers_never(tmp_path: Path) -> None:
    log = Log(tmp_path / "events.log")
    order = []
    for number in range(6):
        order.append(log.generation)
        os.utime(log.path, ns=(0, 1_000 - number if number < 3 else 2_000 + number))
        log.begin()
    (tmp_path / f"events.log.{'0' * 32}").write_bytes(b"not ours\n")
    (tmp_path / "events.log.1").touch()
    reader = Reader(log.path, ours=True)
    reader.read()
    assert list(reader.master) == [order[index] for index in (2, 1, 0, 3, 4, 5)] + [log.generation]
    assert sorted(path.name for path in tmp_path.glob("events.log.*")) == [f"events.log.{'0' * 32}", "events.log.1"]
