"""A tap that is killed again and again while an attacker works: what he did is told, each thing once.

The tap runs under our own supervisor, as beside an agent. It is killed at moments that are bad for it: as soon as its
process exists, while it takes over, when it is up, when it has just delivered. The attacker never pauses, so each of
his commands, passwords and files falls anywhere: before, between and after, some visits wholly into the time without a
tap.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from decnet_core.events import Event, EventType
from tests.lab.engine import LabEngine
from tests.lab.lan import Lan
from tests.lab.processes import LEVEL_SECS, Daemon
from tests.tap.lab_site import PASSWORD, PROGRAM, Site, tapped

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.slow]

HOST_NUMBER = 32
KILLS = 20
LINES = 1500
"""Typed at most. A line takes 1.2 KiB of the terminals' ring, of which one terminal may have 2 MiB until it is read; on
a machine that is busy with other things it may be that none of the killed taps lives long enough to read it."""
TYPING_SECS = 0.01
"""Between two lines, so that they last until the last kill: a pace, not a wait."""
SUPERVISED = """
import asyncio, sys
from functools import partial
from decnet_core import daemon, logs, supervise
supervise.FIRST_DELAY_SECS = supervise.LONGEST_DELAY_SECS = 0.2
logs.configure("agent", level="debug")
tap = supervise.Child("tap", (sys.executable, "-c", *sys.argv[1:]), kept_descriptors=400)
asyncio.run(daemon.run({"tap": partial(supervise.keep_running, tap)}))
"""


@pytest.fixture(scope="module")
def site(lab_engine: LabEngine, decky_image: str, lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, argv = tmp_path_factory.mktemp("site"), (sys.executable, "-c", SUPERVISED, PROGRAM)
    with tapped(lab_engine, decky_image, lan, folder, number=HOST_NUMBER, argv=argv) as site:
        yield site


class Work:
    """What the attacker does, over and over, in threads; `done` tells how often each thing was done."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._visit, self._guess, self._type)]
        self.done: Counter[str] = Counter()
        self.failed: list[BaseException] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _repeat(self, what: str, step: Callable[[int], None]) -> None:
        try:
            while not self._over.is_set():
                step(self.done[what])
                self.done[what] += 1
        except (AssertionError, OSError) as failure:
            self.failed.append(failure)

    def _visit(self) -> None:
        def step(number: int) -> None:
            files = f"for i in 1 2 3; do echo {number}.$i > /tmp/drop-{number}.$i; done"
            assert self._site.ssh(f"/bin/true visit-{number}; {files}").returncode == 0

        self._repeat("visit", step)

    def _guess(self) -> None:
        def step(number: int) -> None:
            assert self._site.ssh("true", password=f"guess-{number}").returncode != 0

        self._repeat("guess", step)

    def _type(self) -> None:
        """One long session of typed lines, each a moment after the answer to the one before."""
        shell = self._site.shell()
        assert shell.stdin is not None
        assert shell.stdout is not None

        def step(number: int) -> None:
            shell.stdin.write(
                f"echo typed-$(({number}))-; /bin/true ran-{number}; cp /etc/hostname /tmp/copy-{number}\n".encode()
            )
            shell.stdin.flush()
            seen = b""
            while f"typed-{number}-".encode() not in seen:
                line = shell.stdout.readline()
                assert line, "the shell ended"
                seen += line
            self._over.wait(TYPING_SECS if number + 1 < LINES else None)

        self._repeat("typed", step)
        shell.stdin.write(b"exit\n")
        shell.communicate(timeout=LEVEL_SECS)


def child_of(daemon: Daemon) -> int | None:
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    return int(children[0]) if children else None


class Killer:
    """Kills the tap, each time at another moment of its life."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._moments = [self._at_once, self._up, self._taking_over, self._delivering, self._quarantining]

    def kill(self, number: int) -> None:
        """Wait for the next tap, for the moment, and kill it."""
        deadline = time.monotonic() + LEVEL_SECS
        while (pid := child_of(self._site.tap)) is None:
            assert time.monotonic() < deadline, "no tap was started again"
        self._moments[number % len(self._moments)](pid)
        os.kill(pid, signal.SIGKILL)
        while child_of(self._site.tap) == pid:
            assert time.monotonic() < deadline, "it does not die"

    def _at_once(self, _pid: int) -> None:
        pass

    def _up(self, _pid: int) -> None:
        before = self._site.tap.log_text().count("tap.started")
        self._site.tap.wait_until(lambda: self._site.tap.log_text().count("tap.started") > before, "tap that started")

    def _taking_over(self, _pid: int) -> None:
        before = self._site.tap.log_text().count("tap.taken_over")
        self._site.tap.wait_until(
            lambda: self._site.tap.log_text().count("tap.taken_over") > before, "tap that takes over"
        )

    def _delivering(self, _pid: int) -> None:
        before = len(self._site.collector.events)
        self._site.tap.wait_until(lambda: len(self._site.collector.events) > before, "event")

    def _quarantining(self, _pid: int) -> None:
        partial = self._site.data / "quarantine" / "partial"
        deadline = time.monotonic() + LEVEL_SECS
        while not os.listdir(partial):  # noqa: PTH208 -- the quickest look
            assert time.monotonic() < deadline, "no file was quarantined"


def numbered(events: list[Event], event_type: EventType, pick: Callable[[Event], str | None]) -> Counter[str]:
    return Counter(name for event in events if event.event_type == event_type and (name := pick(event)) is not None)


def test_what_an_attacker_does_while_the_tap_is_killed_is_told_once(site: Site) -> None:
    killer = Killer(site)
    with Work(site) as work:
        for number in range(KILLS):
            killer.kill(number)
    assert work.failed == []
    done = work.done
    assert min(done["visit"], done["guess"], done["typed"]) > 2
    site.ssh("/bin/true the-end; echo end > /tmp/drop-the-end")
    site.file("/tmp/drop-the-end")
    events = list(site.collector.events)
    mine = [event for event in events if event.src_ip == str(site.lan.attacker.address)]

    def command(interactive: str, *beginnings: str) -> Callable[[Event], str | None]:
        def pick(event: Event) -> str | None:
            text = event.fields["command"]
            return text if event.fields["interactive"] == interactive and text.startswith(beginnings) else None

        return pick

    def path(event: Event) -> str | None:
        return event.fields["path"] if event.fields["path"].startswith("/tmp/") else None

    ran = numbered(mine, EventType.COMMAND_RUN, command("false", "/bin/true visit-", "/bin/true ran-"))
    assert ran == Counter(
        [f"/bin/true visit-{n}" for n in range(done["visit"])] + [f"/bin/true ran-{n}" for n in range(done["typed"])]
    )
    typed = numbered(mine, EventType.COMMAND_RUN, command("true", "echo typed-"))
    assert [int(text[14:].partition(")")[0]) for text in typed.elements()] == list(range(done["typed"]))
    tried = numbered(mine, EventType.CREDENTIAL_TRIED, lambda event: event.fields["password"])
    assert {word: n for word, n in tried.items() if word != PASSWORD} == {f"guess-{n}": 1 for n in range(done["guess"])}
    files = numbered(mine, EventType.FILE_CAPTURED, path)
    expected = Counter([f"/tmp/drop-{n}.{i}" for n in range(done["visit"]) for i in (1, 2, 3)] + ["/tmp/drop-the-end"])
    expected += Counter(f"/tmp/copy-{n}" for n in range(done["typed"]))
    assert files - expected == expected - files == Counter()
    assert not [event for event in events if event.event_type == EventType.EVIDENCE_DROPPED]
    assert all(event.session for event in mine)
    assert len({event.id for event in events}) == len(events)
    assert site.tap.log_text().count('"gapless": true') >= KILLS // 2


def test_a_file_that_is_renamed_while_no_tap_runs_is_told_under_its_new_name(site: Site) -> None:
    site.ssh("echo renamed > /tmp/first-name")
    before = site.file("/tmp/first-name")
    Killer(site).kill(0)
    site.ssh("mv /tmp/first-name /tmp/second-name")
    after = site.file("/tmp/second-name")
    assert (after.session, after.fields["sha256"]) == (before.session, before.fields["sha256"])


def test_nothing_stays_in_the_kernel_when_the_supervisor_ends(site: Site) -> None:
    """Ended by a signal or killed: what it held for the tap goes with it."""
    held = _held(site.tap)
    assert held
    site.tap.kill()
    deadline = time.monotonic() + LEVEL_SECS
    while _bpf_links() & held:
        assert time.monotonic() < deadline, "links outlive the supervisor"


def _held(daemon: Daemon) -> set[str]:
    return _links_of(daemon.pid)


def _bpf_links() -> set[str]:
    found: set[str] = set()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            found |= _links_of(int(process.name))
    return found


def _links_of(pid: int) -> set[str]:
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
            with contextlib.suppress(OSError):
                found |= {line for line in entry.read_text().splitlines() if line.startswith("link_id:")}
    return found
