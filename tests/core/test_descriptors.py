"""Open files that outlive the process that had them: real children, killed, that find theirs again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import textwrap
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from decnet_core import descriptors, supervise
from decnet_core.descriptors import DescriptorStore, inherited, is_name
from decnet_core.supervise import Child, keep_running
from tests.core.process import wait_until

WAIT_SECS = 20

RUN = """
import os, signal, sys
from pathlib import Path
from decnet_core.descriptors import inherited, keep, let_go
from decnet_core.notify import notify
runs, here = Path(sys.argv[1]), Path(sys.argv[2])
found = inherited()
with runs.open("a") as log:
    log.write(" ".join(f"{name}:{os.pread(fd, 99, 0).decode()}:{os.get_inheritable(fd)}" for name, fd in found) + "\\n")
number = len(runs.read_text().splitlines())

def open_file(text):
    path = here / f"{number}-{text}"
    path.write_text(text)
    fd = os.open(path, os.O_RDONLY)
    path.unlink()
    return fd

"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(supervise, "FIRST_DELAY_SECS", 0.01)


@contextlib.asynccontextmanager
async def kept(tmp_path, code, bound):
    """Keep a child running whose runs write what they inherited, one line each; give a way to wait for the nth."""
    argv = (sys.executable, "-c", RUN + textwrap.dedent(code), str(tmp_path / "runs"), str(tmp_path))
    task = asyncio.create_task(keep_running(Child("child", argv, kept_descriptors=bound)))

    async def runs(count: int) -> list[str]:
        file = tmp_path / "runs"
        enough = "the children did not come so far"
        await asyncio.to_thread(
            wait_until, lambda: file.exists() and len(file.read_text().splitlines()) >= count, enough
        )
        return file.read_text().splitlines()[:count]

    try:
        yield runs
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), WAIT_SECS)


def open_files() -> set[str]:
    return {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}  # noqa: PTH115


async def test_what_a_killed_child_kept_is_its_successors(tmp_path):
    code = """
    if number == 1:
        keep("first", open_file("one"))
        keep("pair", open_file("two"), open_file("three"))
    elif number == 2:
        let_go("first")
    os.kill(os.getpid(), signal.SIGKILL)
    """
    async with kept(tmp_path, code, 8) as runs:
        first, second, third = await runs(3)
    assert first == ""
    assert second == "first:one:False pair:two:False pair:three:False"
    assert third == "pair:two:False pair:three:False"
    assert not [name for name in open_files() if str(tmp_path) in name]


async def test_a_store_is_bounded(tmp_path):
    code = """
    if number == 1:
        for text in ("one", "two", "three"):
            keep(text, open_file(text))
        keep("a:b", open_file("four"))
        os.kill(os.getpid(), signal.SIGKILL)
    notify("READY=1")
    signal.pause()
    """
    with capture_logs() as logged:
        async with kept(tmp_path, code, 2) as runs:
            assert (await runs(2))[1] == "one:one:False two:two:False"
    assert len([line for line in logged if line["event"] == "descriptor.refused"]) == 2


async def test_a_child_that_was_given_no_room_keeps_nothing(tmp_path):
    code = """
    keep("one", open_file("one"))
    os.kill(os.getpid(), signal.SIGKILL)
    """
    async with kept(tmp_path, code, 0) as runs:
        assert await runs(2) == ["", ""]


async def test_only_the_childs_own_process_may_store(tmp_path):
    """A grandchild has the same socket's name in its environment."""
    code = """
    if number == 1:
        if os.fork() == 0:
            keep("foreign", open_file("foreign"))
            let_go("own")
            os._exit(0)
        os.wait()
        keep("own", open_file("own"))
        if os.fork() == 0:
            let_go("own")
            os._exit(0)
        os.wait()
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()
    """
    async with kept(tmp_path, code, 8) as runs:
        assert (await runs(2))[1] == "own:own:False"
        assert not [name for name in open_files() if name.startswith(f"{tmp_path}/1-foreign")]


def test_a_store_closes_what_it_lets_go_of():
    store = DescriptorStore(4)
    left, right = socket.socketpair()
    store.keep("one", [os.dup(right.fileno())])
    right.close()
    assert store.environment() == {descriptors.INHERITED: f"{store.fds[0]}=one"}
    store.let_go("other")
    left.settimeout(0.01)
    with pytest.raises(TimeoutError):
        left.recv(1)
    store.let_go("one")
    assert (left.recv(1), store.fds, store.environment()) == (b"", (), {})
    left.close()


async def test_more_names_than_one_variable_holds_reach_the_next_process(tmp_path):
    """Linux bounds a variable at 128 KiB: a child that could not be started would be tried again for ever."""
    code = """
    if number == 1:
        fd = open_file("x")
        for index in range(700):
            keep(f"{index:0250d}", fd)
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()
    """
    async with kept(tmp_path, code, 700) as runs:
        found = (await runs(2))[1].split()
    assert [int(item.partition(":")[0]) for item in found] == list(range(700))


def test_each_variable_is_bounded_and_taken_once(monkeypatch):
    store = DescriptorStore(3000)
    store.keep("a-rather-long-name", [os.open(os.devnull, os.O_RDONLY) for _ in range(10)])
    monkeypatch.setattr(descriptors, "VARIABLE_BYTES", 100)
    environment = store.environment()
    assert len(environment) == 3
    assert max(len(text) for text in environment.values()) <= 100
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert sorted(fd for _, fd in inherited()) == sorted(store.fds)
    assert not [name for name in os.environ if name.startswith(descriptors.INHERITED)]
    store.close()


def test_descriptors_that_systemd_hands_over(monkeypatch):
    """sd_listen_fds(3): from 3 on, and only for the process that is named."""
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_FDNAMES", "ring:queue")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    assert inherited() == []
    assert "LISTEN_FDS" not in os.environ


@pytest.mark.parametrize(
    ("text", "fits"), [("ring.1", True), ("", False), ("a:b", False), ("a\n", False), ("ä", False), ("x" * 256, False)]
)
def test_names(text, fits):
    assert is_name(text) is fits
