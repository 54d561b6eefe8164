"""What outlives a tap in the kernel: the next one takes it over, nothing is missed, and nothing is left in the end."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from decnet_agent.tap import decoding
from decnet_agent.tap.file_queue import FileQueue, Taken
from decnet_agent.tap.holdings import Holdings
from decnet_agent.tap.probes import KernelProbes
from decnet_agent.tap.programs import Kind
from decnet_core.descriptors import DescriptorStore
from decnet_core.notify import Notices
from tests.tap.test_kernel_root import Room, room, watch

__all__ = ["room"]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for BPF and fanotify"),
]


class Supervisor:
    """A real one's two halves: the socket that hears, and the store that holds."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._store = DescriptorStore(500)

    def names(self) -> list[str]:
        """What is held, after all that was said so far."""
        self._notices.hear(os.getpid(), lambda: None, self._store)
        return [item.partition("=")[2] for item in "".join(self._store.environment().values()).split(":") if item]

    def next_tap(self) -> Holdings:
        """What the next tap inherits: copies of what is held."""
        names = self.names()
        return Holdings(zip(names, map(os.dup, self._store.fds), strict=True), kept=True)

    def close(self) -> None:
        self._store.close()


@pytest.fixture
async def supervisor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    await asyncio.sleep(0)
    with Notices() as notices:
        monkeypatch.setenv("NOTIFY_SOCKET", notices.address)
        made = Supervisor(notices)
        yield made
        made.close()


def executed(probes: KernelProbes) -> list[bytes]:
    """The last arguments of the programs that were executed; what is read stays in the ring."""
    records = [decoding.decode(data) for data in probes.read(100_000)]
    return [decoding.arguments(record)[-1] for record in records if record.kind is Kind.EXECUTED]


async def test_the_next_tap_reads_on_where_the_last_one_was_safe(supervisor: Supervisor, room: Room) -> None:
    first = KernelProbes(supervisor.next_tap())
    namespace = watch(first, room)
    room.run("/bin/true one")
    assert executed(first) == [b"one"]
    first.consume()
    room.run("/bin/true two")
    assert executed(first) == [b"two"]
    safe = first.position
    room.run("/bin/true three")
    assert executed(first) == [b"three"]  # read, and neither safe nor freed
    first.refresh(namespace, room.pid1, "room")
    supervisor.names()
    first.close()
    room.run("/bin/true four")
    second = KernelProbes(supervisor.next_tap())
    assert (second.taken_over, second.generation, second.watched()) == (True, first.generation, {namespace})
    second.skip_to(safe)
    room.run("/bin/true five")
    assert executed(second) == [b"three", b"four", b"five"]
    assert second.lost() == 0
    second.refresh(namespace, room.pid1, "room")
    before = supervisor.names()
    assert len(before) == len(set(before))
    second.forget(namespace)
    assert {name.partition(".")[0] for name in set(before) - set(supervisor.names())} == {"p"}
    second.close()


async def test_another_layouts_descriptors_are_refused(supervisor: Supervisor) -> None:
    KernelProbes(supervisor.next_tap()).close()
    names = supervisor.names()
    assert len(names) == 6
    found = [(name.replace(".", ".0", 1), os.dup(fd)) for name, fd in zip(names, supervisor._store.fds, strict=True)]
    holdings = Holdings(found, kept=True)
    second = KernelProbes(holdings)
    assert not second.taken_over
    assert sorted(holdings.refuse()) == sorted(name for name, _ in found)
    assert holdings.names() == []
    second.close()


async def test_an_incomplete_set_is_refused(supervisor: Supervisor) -> None:
    KernelProbes(supervisor.next_tap()).close()
    holdings = supervisor.next_tap()
    os.close(holdings.take(next(name for name in holdings.names() if name.startswith("exec"))))
    second = KernelProbes(holdings)
    assert not second.taken_over
    assert len(holdings.refuse()) == 5
    second.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "decnet-test", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.fixture
def queue(supervisor: Supervisor, disk: Path) -> FileQueue:
    made = FileQueue(supervisor.next_tap())
    directory = os.open(disk, os.O_RDONLY | os.O_DIRECTORY)
    made.watch(directory)
    os.close(directory)
    return made


def contents(events: list[Taken]) -> list[str]:
    return [os.pread(taken.written.fd, 99, 0).decode() for taken in events]


def left(queue: FileQueue) -> list[Taken]:
    return list(iter(queue.left, None))


def finish(queue: FileQueue, *events: Taken) -> None:
    for taken in events:
        queue.finish(taken)
        os.close(taken.written.fd)


async def test_files_in_hand_are_the_next_taps(supervisor: Supervisor, queue: FileQueue, disk: Path) -> None:
    for name in ("done", "in-hand", "gone"):
        (disk / name).write_text(name)
    (disk / "gone").unlink()
    done, in_hand, gone = list(queue.read())
    assert contents([done, in_hand, gone]) == ["done", "in-hand", "gone"]
    finish(queue, done)
    finish(queue, gone)  # out of order: its copy stays, because that of the one before it must
    os.close(in_hand.written.fd)
    queue.close()
    (disk / "meanwhile").write_text("meanwhile")
    second = FileQueue(supervisor.next_tap())
    assert second.taken_over
    found = left(second)
    assert contents(found) == ["in-hand", "gone", "meanwhile"]
    finish(second, *found)
    caught_up = list(second.read()) + list(second.read())
    assert contents(caught_up) == ["meanwhile"]  # once more, from the lead: whoever catches up recognises it
    assert caught_up[0].key == found[2].key
    assert caught_up[0].state == found[2].state
    finish(second, *caught_up)
    assert second.caught_up
    (disk / "new").write_text("new")
    (new,) = second.read()
    assert new.copied
    finish(second, new)
    second.close()
    third = FileQueue(supervisor.next_tap())
    assert left(third) == []
    third.close()


async def test_killed_while_it_recovers_and_while_it_catches_up(
    supervisor: Supervisor, queue: FileQueue, disk: Path
) -> None:
    (disk / "one").write_text("one")
    (one,) = queue.read()
    os.close(one.written.fd)
    queue.close()
    for _ in range(3):  # each reads it and dies
        recovering = FileQueue(supervisor.next_tap())
        (again,) = left(recovering)
        assert contents([again]) == ["one"]
        supervisor.names()
        os.close(again.written.fd)
        recovering.close()
    catching_up = FileQueue(supervisor.next_tap())
    finish(catching_up, *left(catching_up))
    (disk / "two").write_text("two")
    (two,) = catching_up.read()
    supervisor.names()
    os.close(two.written.fd)
    catching_up.close()
    last = FileQueue(supervisor.next_tap())
    found = left(last)
    assert set(contents(found)) == {"two"}  # the open file, and the rear's copy
    finish(last, *found)
    assert not [name for name in supervisor.names() if name.startswith("file.")]
    last.close()


async def test_a_file_written_again_and_again_keeps_a_copy_of_the_last(
    supervisor: Supervisor, queue: FileQueue, disk: Path
) -> None:
    """The kernel merges what waits in the rear; what was read from the lead in between is held as an open file."""
    (disk / "log").write_text("1")
    (first,) = queue.read()
    (disk / "log").write_text("12")
    (second,) = queue.read()
    assert (first.copied, second.copied, bool(second.held)) == (True, False, True)
    finish(queue, first)
    supervisor.names()
    os.close(second.written.fd)
    queue.close()
    following = FileQueue(supervisor.next_tap())
    found = left(following)
    assert contents(found) == ["12"]
    assert found[0].key == second.key
    finish(following, *found)
    following.close()


async def test_a_file_that_is_written_again_before_it_is_done_keeps_its_own_copy(
    supervisor: Supervisor, queue: FileQueue, disk: Path
) -> None:
    """The second event was merged into the first one's copy, which is thrown away with the first."""
    (disk / "log").write_text("1")
    (first,) = queue.read()
    (disk / "log").write_text("12")
    finish(queue, first)
    (second,) = queue.read()
    assert (second.copied, bool(second.held)) == (False, True)
    supervisor.names()
    os.close(second.written.fd)
    queue.close()
    following = FileQueue(supervisor.next_tap())
    found = left(following)
    assert contents(found) == ["12"]
    finish(following, *found)
    following.close()


async def test_files_that_are_written_again_and_again_leave_nothing_behind(
    supervisor: Supervisor, queue: FileQueue, disk: Path
) -> None:
    for number in range(300):
        for text in ("1", "12"):
            (disk / f"log{number % 100}").write_text(text)
            if text == "1":
                taken = list(queue.read())
        finish(queue, *taken)
        finish(queue, *queue.read(1))
        supervisor.names()
    assert len(queue._uncopied) <= 100
    (disk / "log").write_text("1")
    finish(queue, *queue.read())
    assert list(queue.read()) == []
    assert len(queue._uncopied) == 0
    assert not [name for name in supervisor.names() if name.startswith("file.")]
    queue.close()
    following = FileQueue(supervisor.next_tap())
    finish(following, *left(following))
    assert list(following.read()) == []
    following.close()
