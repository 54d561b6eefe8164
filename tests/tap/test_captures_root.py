"""Whose a written file is, with the kernel's own file events: nobody's file is told of, and no intruder's is lost.

The decky is a shell in a pid and a mount namespace of its own, whose root is an overlay. What the kernel's programs
would tell of its processes is told by hand, so that it can be late or missing.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from decnet_agent.tap import procs
from decnet_agent.tap.captures import MAX_PENDING, UNKNOWN, Captures
from decnet_agent.tap.decoding import Record
from decnet_agent.tap.file_queue import FileQueue, Taken
from decnet_agent.tap.observer import Observer, Watched
from decnet_agent.tap.programs import Kind
from decnet_agent.tap.quarantine import Quarantine
from decnet_core.events import Event, EventType
from tests.tap.records import SECOND, packed
from tests.tap.test_observer import Machine
from tests.tap.test_takeover_root import Supervisor, supervisor

__all__ = ["supervisor"]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for fanotify and mounts"),
]

SERVER = 200
"""The pid of the one SSH server's process that `Machine` knows; it is nobody's here."""


ENTER = """
import ctypes, os, sys
os.read(0, 1)
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
pivot_root = 155 if os.uname().machine == "x86_64" else 41
assert libc.syscall(pivot_root, b".", b".") == 0  # the old root lies on top of the new one
assert libc.umount2(b".", 2) == 0  # MNT_DETACH
os.chdir("/")
os.execv("/bin/bash", ["bash", "--norc"])
"""


class Rooms(Machine):
    """The server of `Machine`, and what /proc says of who runs."""

    def running(self, namespace: int) -> Iterator[Record]:
        return procs.running(namespace)


class Decky:
    """A shell in namespaces of its own, on an overlay over this machine's root.

    Args:
        folder: for the overlay.
        at_once: whether the shell runs already; else `enter` is still to be called.
    """

    def __init__(self, folder: Path, *, at_once: bool = True) -> None:
        self.root = folder / "merged"
        disk = folder / "disk"
        for path in (self.root, disk):
            path.mkdir()
        self._mounts = (self.root, disk)
        subprocess.run(["mount", "-t", "tmpfs", "decnet-test", disk], check=True)
        for name in ("upper", "work"):
            (disk / name).mkdir()
        options = f"lowerdir=/,upperdir={disk}/upper,workdir={disk}/work"
        subprocess.run(["mount", "-t", "overlay", "decnet-test", "-o", options, self.root], check=True)
        argv = ["unshare", "--pid", "--mount", "--fork", "--kill-child", sys.executable, "-c", ENTER, str(self.root)]
        self._shell = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if at_once:
            self.enter()
        else:
            while not Path(f"/proc/{self._shell.pid}/task/{self._shell.pid}/children").read_text():
                assert self._shell.poll() is None
        children = Path(f"/proc/{self._shell.pid}/task/{self._shell.pid}/children").read_text()
        self.pid1 = int(children.split()[0])
        namespace = procs.namespace_of(self.pid1)
        assert namespace is not None
        self.watched = Watched("web-01", "c0ffee", self.pid1, namespace)

    def enter(self) -> None:
        """Make the overlay the shell's root."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(b"!")
        self._shell.stdin.flush()
        self.run("mkdir /dropped")

    def run(self, line: str) -> None:
        """Have the shell run a line, and wait until it is done."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(line.encode() + b"; echo done\n")
        self._shell.stdin.flush()
        assert self._shell.stdout.readline() == b"done\n"

    def from_outside(self, *argv: str) -> None:
        """Have a short-lived process of the host's run."""
        subprocess.run(argv, check=True)

    def close(self) -> None:
        self._shell.communicate(timeout=60)
        for mount in self._mounts:
            subprocess.run(["umount", "--lazy", mount], check=True)


@pytest.fixture
def decky(tmp_path: Path) -> Iterator[Decky]:
    made = Decky(tmp_path)
    yield made
    made.close()


@dataclass
class Past:
    """What is known of the past: all of it, or not yet."""

    reached: bool = True
    end: int = 0

    def drain(self, _end: int | None = None) -> bool:
        return self.reached


@dataclass
class Tap:
    """One tap's part that captures files."""

    queue: FileQueue
    folder: Path
    supervisor: Supervisor
    events: list[Event] = field(default_factory=list)
    past: Past = field(default_factory=Past)

    def __post_init__(self) -> None:
        self.observer = Observer(self.events.append, Rooms())
        holdings = self.supervisor.next_tap()
        self.quarantine = Quarantine(self.folder / "quarantine")
        self.captures = Captures(
            self.queue,
            self.quarantine,
            self.observer,
            self.events.append,
            holdings=holdings,
            past=self.past,
            commit=lambda: None,
        )

    def visitor(self, decky: Decky) -> None:
        """Let the decky's shell be a visitor's."""
        pid, namespace = decky.pid1, decky.watched.namespace
        self.observer.restored([decky.watched])
        for record in (
            packed(Kind.FORKED, pid=SERVER, name=b"sshd", namespace=namespace),
            packed(Kind.FORKED, pid=pid, parent=SERVER, parent_started_ns=SECOND, name=b"bash", namespace=namespace),
            packed(Kind.EXECUTED, pid=pid, file=b"/bin/bash", text=b"bash\0", namespace=namespace),
        ):
            self.observer.take(record)
        self.events.clear()

    async def until(self, reached: Callable[[], bool]) -> None:
        running = asyncio.create_task(self.captures.run())
        try:
            async with asyncio.timeout(60):
                while not reached():
                    await asyncio.sleep(0.001)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def finish(self) -> list[str]:
        """Give the names and writers of all files that are told of, after all that waits was dealt with."""
        await self.captures.finish()
        return sorted(
            f"{event.fields['path']} {event.fields['writer']} {event.src_ip}"
            for event in self.events
            if event.event_type == EventType.FILE_CAPTURED
        )

    def dropped(self) -> Counter[str]:
        return Counter(
            {
                event.fields["reason"]: int(event.fields["count"])
                for event in self.events
                if event.event_type == EventType.EVIDENCE_DROPPED
            }
        )

    def close(self) -> None:
        self.captures.close()
        self.quarantine.close()


@pytest.fixture
async def tap(supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tap]:
    await asyncio.sleep(0)
    monkeypatch.setattr("decnet_agent.tap.captures.FINISH_SECS", 120.0)  # a loaded machine takes its time
    made = Tap(FileQueue(supervisor.next_tap()), tmp_path, supervisor)
    yield made
    made.close()


async def test_a_visitor_s_file_is_his(tap: Tap, decky: Decky) -> None:
    tap.visitor(decky)
    tap.captures.watch(decky.watched)
    decky.run("echo x > /dropped/his")
    assert await tap.finish() == ["/dropped/his bash < sshd 10.0.0.9"]
    assert tap.dropped() == {}


async def test_a_file_of_the_decky_s_own_machinery_is_nobody_s(tap: Tap, decky: Decky) -> None:
    tap.observer.watch(decky.watched)
    tap.captures.watch(decky.watched)
    decky.run("echo x > /dropped/machinery")
    assert await tap.finish() == []
    assert tap.events == []


async def test_a_file_of_an_unknown_writer_within_the_decky_is_told_without_a_session(tap: Tap, decky: Decky) -> None:
    tap.captures.watch(decky.watched)
    decky.run("echo living > /dropped/living; /bin/sh -c 'echo dead > /dropped/dead'")
    assert await tap.finish() == [f"/dropped/dead {UNKNOWN} None", f"/dropped/living {UNKNOWN} None"]
    assert {event.session for event in tap.events} == {None}


async def test_what_comes_from_outside_of_the_decky_is_nobody_s(tap: Tap, decky: Decky) -> None:
    """As `docker cp` does it: by the engine itself, and by a helper of its that is gone when we look."""
    tap.captures.watch(decky.watched)
    (decky.root / "dropped" / "by-the-engine").write_text("x")
    decky.from_outside("sh", "-c", f"echo x > {decky.root}/dropped/by-a-helper")
    decky.from_outside("unshare", "--mount", "sh", "-c", f"echo x > {decky.root}/dropped/by-another")
    decky.run("echo x > /dropped/within")
    assert await tap.finish() == [f"/dropped/within {UNKNOWN} None"]


async def test_a_file_whose_writer_s_record_is_late_is_still_its_visitor_s(tap: Tap, decky: Decky) -> None:
    """A processor that was stopped while it wrote a record holds up those behind it."""
    tap.captures.watch(decky.watched)
    tap.past.reached = False
    running = asyncio.create_task(tap.captures.run())
    tap.captures._recovered = True
    decky.run("echo his > /dropped/his")
    try:
        async with asyncio.timeout(60):
            while not tap.captures._intake.waiting:
                await asyncio.sleep(0.001)
        assert tap.events == []
        tap.visitor(decky)
        tap.past.reached = True
        async with asyncio.timeout(60):
            while not tap.events:
                await asyncio.sleep(0.001)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert await tap.finish() == ["/dropped/his bash < sshd 10.0.0.9"]


async def test_files_still_on_their_way_when_their_decky_ends_are_kept(tap: Tap, decky: Decky) -> None:
    tap.visitor(decky)
    tap.captures.watch(decky.watched)
    await tap.until(lambda: tap.captures.caught_up)
    count = MAX_PENDING + 10
    decky.run(f"for i in {{1..{count}}}; do echo $i > /dropped/$i; done")
    tap.captures.forget(decky.watched, tap.observer.forget(decky.watched.namespace))
    found = await tap.finish()
    assert found == sorted(f"/dropped/{number} bash < sshd 10.0.0.9" for number in range(1, count + 1))
    assert tap.dropped() == {}


async def test_another_decky_with_the_number_of_one_that_ended_has_no_part_in_its_files(tap: Tap, decky: Decky) -> None:
    """The kernel gives a namespace's number away again as soon as it is free."""
    tap.visitor(decky)
    tap.captures.watch(decky.watched)
    await tap.until(lambda: tap.captures.caught_up)
    decky.run("echo x > /dropped/old")
    tap.captures.forget(decky.watched, tap.observer.forget(decky.watched.namespace))
    tap.observer.restored([Watched("web-02", "c0de", decky.pid1, decky.watched.namespace)])
    assert await tap.finish() == ["/dropped/old bash < sshd 10.0.0.9"]
    assert {event.decky for event in tap.events} == {"web-01"}


async def test_a_mark_that_could_not_be_set_is_set_when_it_can_be(tap: Tap, decky: Decky) -> None:
    """Watching again is harmless, and finds what was not there before."""
    for _ in range(2):
        tap.captures.watch(decky.watched)
    decky.run("echo x > /dropped/once")
    assert await tap.finish() == [f"/dropped/once {UNKNOWN} None"]


async def test_files_that_do_not_fit_into_the_time_at_the_end_are_counted(
    tap: Tap, decky: Decky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decnet_agent.tap.captures.FINISH_SECS", 0.0)
    tap.captures.watch(decky.watched)
    decky.run("for i in 1 2 3; do echo $i > /dropped/$i; done")
    assert await tap.finish() == []
    assert tap.dropped() == {"ended": 3}
    assert tap.queue.waiting == 3


async def test_one_file_that_cannot_be_looked_at_is_counted_and_ends_nothing(tap: Tap, decky: Decky) -> None:
    class Broken(Observer):
        def find(self, _namespace: int, _pid: int) -> None:
            raise OSError(5, "Input/output error")

    tap.captures._observer = Broken(tap.events.append, Machine())
    tap.captures.watch(decky.watched)
    decky.run("echo x > /dropped/broken")
    assert await tap.finish() == []
    assert tap.dropped() == {"file-unreadable": 1}


class Undone(FileQueue):
    """A tap that is killed before it strikes anything off."""

    def finish(self, taken: Taken) -> None:
        pass


async def _second_tap(first: Tap, decky: Decky) -> Tap:
    """What takes over after a kill."""
    rows = [table.all_changed() or table.changes() for table in first.captures.tables]
    first.close()
    second = Tap(FileQueue(first.supervisor.next_tap()), first.folder, first.supervisor)
    for table, changed in zip(second.captures.tables, rows, strict=True):
        table.restore([(key, value) for key, value in changed if value is not None])
    second.captures.restored([decky.watched])
    return second


@pytest.mark.parametrize(
    ("meanwhile", "again"),
    [
        ("true", 0),
        ("chmod +x /dropped/kit", 0),  # of another state, and the same content
        ("printf %s BBBB > /dropped/kit", 1),
    ],
)
async def test_what_was_told_and_not_struck_off_is_told_again_only_if_it_changed(
    supervisor: Supervisor, decky: Decky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str, again: int
) -> None:
    """Whoever writes a file can set back when it was written, and its size; not its content."""
    monkeypatch.setattr("decnet_agent.tap.captures.FINISH_SECS", 120.0)
    first = Tap(Undone(supervisor.next_tap()), tmp_path, supervisor)
    first.captures.watch(decky.watched)
    kit = decky.root / "dropped" / "kit"
    decky.run("printf %s AAAA > /dropped/kit")
    os.utime(kit, (10**9, 10**9))
    assert await first.finish() == [f"/dropped/kit {UNKNOWN} None"]
    decky.run(meanwhile)
    os.utime(kit, (10**9, 10**9))
    second = await _second_tap(first, decky)
    try:
        assert len(await second.finish()) == again
    finally:
        second.close()
