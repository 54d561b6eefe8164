"""The life of a daemon: real processes, real signals, a real manager's socket."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from decnet_core import daemon
from decnet_core.errors import Conflict, Unavailable
from tests.core.process import Program, is_alive, wait_until

DAEMON = """
import asyncio, sys
from decnet_core import daemon
from decnet_core.errors import ConfigError
from decnet_core.program import run_program

async def worker(name, ready):
    try:
        print(name, "runs")
        ready.one_more()
        await asyncio.Event().wait()
    finally:
        print(name, "cleans up")

def main():
    ready = daemon.Ready(2)
    tasks = {name: lambda name=name: worker(name, ready) for name in ("a", "b")}
    asyncio.run(daemon.run(tasks, ready))
    print("ended")

run_program(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_task(number):
    with Program(DAEMON) as program:
        program.line_with("b runs")
        program.signal(number)
        assert program.rest().splitlines() == ["a cleans up", "b cleans up", "ended"]
        assert program.wait() == 0


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(20)
        yield listening


def test_the_manager_hears_of_the_whole_life(manager):
    surroundings = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "20000"}
    with Program(DAEMON, env=surroundings) as program:
        assert manager.recv(100) == b"READY=1"
        assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        program.signal(signal.SIGTERM)
        while (heard := manager.recv(100)) != b"STOPPING=1":
            assert heard == b"WATCHDOG=1"
        assert program.wait() == 0


def test_readiness_waits_for_every_part(manager):
    code = DAEMON.replace('    tasks["b"]', "").replace("daemon.Ready(2)", "daemon.Ready(3)")
    with Program(code, env={"NOTIFY_SOCKET": manager.getsockname()}) as program:
        program.line_with("b runs")
        program.signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"  # and never READY=1: a third part is missing
        assert program.wait() == 0


async def _for_ever():
    import asyncio

    await asyncio.Event().wait()


async def test_an_error_of_ours_comes_out_as_it_was_raised():
    async def conflicted():
        raise Conflict("The port is taken", "Free it.")

    with pytest.raises(Conflict, match="The port is taken") as caught:
        await daemon.run({"a": _for_ever, "b": conflicted})
    assert caught.value.advice == "Free it."


async def test_our_error_is_told_before_anything_that_follows_from_it():
    import asyncio

    async def broken_by_the_end():
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("on the way down")

    async def unavailable():
        raise Unavailable("The database does not answer")

    with pytest.raises(Unavailable):
        await daemon.run({"a": broken_by_the_end, "b": unavailable})


async def test_a_bug_comes_out_too():
    async def buggy():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await daemon.run({"a": _for_ever, "b": buggy})


async def test_a_task_that_ends_ends_the_daemon():
    async def brief():
        return None

    await daemon.run({"a": _for_ever, "b": brief})


async def test_signals_are_given_back():
    before = signal.getsignal(signal.SIGTERM)

    async def brief():
        return None

    await daemon.run({"a": brief})
    assert signal.getsignal(signal.SIGTERM) == before


FORGETFUL = """
import asyncio
from decnet_core import daemon
from decnet_core.program import run_program

daemon.CANCEL_AGAIN_SECS = 0.05

async def fail():
    await asyncio.sleep(0)
    raise ValueError

async def worker():
    print("runs")
    while True:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()
        except* ValueError:
            pass

run_program(lambda: asyncio.run(daemon.run({"a": worker})))
"""


@pytest.mark.slow
def test_a_cancellation_that_gets_lost_in_a_task_is_repeated():
    for _ in range(8):  # nine of ten signals meet a failing child
        with Program(FORGETFUL) as program:
            program.line_with("runs")
            program.signal(signal.SIGTERM)
            assert program.wait() == 0


async def test_a_daemon_that_is_cancelled_ends_its_tasks_first():
    import asyncio

    ended = []

    async def worker():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("worker")

    running = asyncio.create_task(daemon.run({"a": worker}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == ["worker"]


def test_an_error_becomes_its_exit_code():
    code = DAEMON.replace('        print(name, "runs")', '        raise ConfigError("It does not fit", "Correct it.")')
    with Program(code) as program:
        assert "error: It does not fit" in program.rest()
        assert program.wait() == 78


PARENT = """
import os, subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-u", "-c", sys.argv[1]],
    env={**os.environ, "DECNET_SUPERVISOR_PID": sys.argv[2] if len(sys.argv) > 2 else str(os.getpid())},
)
sys.exit(child.wait() & 0xFF)
"""
CHILD = """
import os, signal
from decnet_core.daemon import die_with_parent
die_with_parent()
print("child", os.getpid())
signal.pause()
"""


def test_a_child_does_not_outlive_its_parents_kill():
    with Program(PARENT, CHILD) as parent:
        pid = int(parent.line_with("child").split()[1])
        assert is_alive(pid)
        parent.signal(signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the child outlived its parent")


def test_a_child_whose_parent_is_gone_already_ends_at_once():
    with Program(PARENT, CHILD, 1) as parent:
        assert parent.rest() == ""
        assert parent.wait() == -signal.SIGTERM & 0xFF


def test_without_a_supervisor_nothing_is_asked_for():
    with Program(CHILD, env={"DECNET_SUPERVISOR_PID": ""}) as child:
        assert child.line_with("child") == f"child {child.process.pid}"
        assert is_alive(child.process.pid)
        assert os.getpid() != child.process.pid
