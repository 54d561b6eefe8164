"""Supervised children: real ones, that end, hang, are missing and are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import textwrap
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from decnet_core import supervise
from decnet_core.errors import ExitCode
from decnet_core.supervise import CONFLICT_ATTEMPTS, Child, ChildFailed, keep_running
from tests.core.process import Program, is_alive, wait_until

pytestmark = pytest.mark.slow  # starts, kills and awaits programs

WAIT_SECS = 20


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Let the delays be short; how they grow stays as it is."""
    monkeypatch.setattr(supervise, "FIRST_DELAY_SECS", 0.01)


def shell(script, *arguments, **options):
    return Child("child", ("/bin/sh", "-c", script, "sh", *map(str, arguments)), **options)


@contextlib.asynccontextmanager
async def kept(child, environment=None, **options):
    """Keep a child running while the body runs."""
    task = asyncio.create_task(keep_running(child, environment, **options))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), WAIT_SECS)


async def until(level):
    await asyncio.to_thread(wait_until, level, "the children did not come so far")


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("ending", ["exit 0", "exit 1", "exit 69", "kill -KILL $$"])
async def test_a_child_that_ends_is_started_again(tmp_path, ending):
    with capture_logs() as logged:
        async with kept(shell(f"echo $$ >> $1; {ending}", tmp_path / "runs")):
            await until(lambda: len(lines_of(tmp_path / "runs")) == 3)
    assert len(set(lines_of(tmp_path / "runs"))) == 3
    delays = [line["restart_in_secs"] for line in logged if line["event"] == "child.exited"]
    assert delays[:2] == [supervise.FIRST_DELAY_SECS, supervise.FIRST_DELAY_SECS * 2]


async def test_a_child_that_ran_long_enough_starts_anew_with_its_delays(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "STEADY_SECS", 0.0)
    with capture_logs() as logged:
        async with kept(shell("echo >> $1; exit 1", tmp_path / "runs")):
            await until(lambda: len(lines_of(tmp_path / "runs")) == 4)
    delays = {line["restart_in_secs"] for line in logged if line["event"] == "child.exited"}
    assert delays == {supervise.FIRST_DELAY_SECS}


@pytest.mark.parametrize("code", [ExitCode.USAGE, ExitCode.TRUST, ExitCode.CONFIG])
async def test_what_a_restart_cannot_mend_comes_out_with_its_code(code):
    with pytest.raises(ChildFailed) as caught:
        await asyncio.wait_for(keep_running(shell(f"exit {int(code)}")), WAIT_SECS)
    assert caught.value.exit_code is code
    assert "child" in caught.value.message


async def test_a_port_that_stays_taken_comes_out_after_some_attempts(tmp_path):
    with pytest.raises(ChildFailed) as caught:
        await asyncio.wait_for(keep_running(shell("echo >> $1; exit 5", tmp_path / "runs")), WAIT_SECS)
    assert caught.value.exit_code is ExitCode.CONFLICT
    assert len(lines_of(tmp_path / "runs")) == CONFLICT_ATTEMPTS


async def test_a_port_that_is_free_again_is_no_failure(tmp_path):
    script = 'echo >> "$1"; [ "$(wc -l < "$1")" -gt 2 ] || exit 5; echo up > "$2"; exec sleep 60'
    async with kept(shell(script, tmp_path / "runs", tmp_path / "up")) as task:
        await until((tmp_path / "up").exists)
        assert not task.done()


@pytest.mark.parametrize("argv", [("/no/such/program",), ("/etc/passwd",), ("/etc/passwd/x",)])
async def test_a_program_that_is_missing_comes_out(argv):
    with capture_logs() as logged, pytest.raises(ChildFailed) as caught:
        await asyncio.wait_for(keep_running(Child("child", argv)), WAIT_SECS)
    assert caught.value.exit_code is ExitCode.CONFIG
    assert [(line["event"], line["program"]) for line in logged] == [("child.start_failed", argv[0])]


@pytest.mark.parametrize("argv", [("/bin/sh", "-c", "exit 77"), ("/no/such/program",)])
async def test_an_optional_child_is_given_up_and_the_rest_goes_on(argv):
    with capture_logs() as logged:
        async with kept(Child("extra", argv, optional=True)) as task:
            await until(lambda: "child.given_up" in [line["event"] for line in logged])
            assert not task.done()


async def test_a_child_knows_its_supervisor_and_not_its_manager(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    script = 'echo "$DECNET_SUPERVISOR_PID/$NOTIFY_SOCKET/$MORE$WATCHDOG_USEC" > $1.tmp; mv $1.tmp $1; exec sleep 60'
    async with kept(shell(script, tmp_path / "seen"), {"MORE": "more"}):
        await until((tmp_path / "seen").exists)
        (seen,) = lines_of(tmp_path / "seen")
    supervisor, socket_name, more = seen.split("/")
    assert (supervisor, more) == (str(os.getpid()), "more")
    assert socket_name.startswith("@")


def python(code, **options):
    return Child("child", (sys.executable, "-c", textwrap.dedent(code)), **options)


SAYS_READY = """
import os, signal, subprocess, sys
from decnet_core.notify import notify
if sys.argv[1:] == ["other"]:
    sys.exit(not notify("READY=1"))
"""


async def test_a_child_is_up_when_it_says_so_itself_and_once_only():
    ups = []
    again = SAYS_READY + 'notify("STATUS=x\\nREADY=1")\nnotify("READY=1")\nos.kill(os.getpid(), signal.SIGKILL)\n'
    with capture_logs() as logged:
        async with kept(python(again), up=lambda: ups.append("up")):
            await until(lambda: [line["event"] for line in logged].count("child.exited") == 3)
    assert ups == ["up"]


async def test_what_others_say_does_not_count(tmp_path):
    ups = []
    others = """
    subprocess.run([sys.executable, "-c", sys.argv[2], "other"], check=True)
    notify("READY=0")
    open(sys.argv[1], "w").close()
    signal.pause()
    """
    argv = (sys.executable, "-c", SAYS_READY + textwrap.dedent(others), str(tmp_path / "done"), SAYS_READY)
    async with kept(Child("child", argv), up=lambda: ups.append("up")):
        await until((tmp_path / "done").exists)
        await asyncio.sleep(0)  # what was sent has arrived; the loop looks at it
        await asyncio.sleep(0)
        assert ups == []


async def test_more_words_than_a_socket_holds_block_nobody():
    ups = []
    many = SAYS_READY + 'for _ in range(1000): assert notify("WATCHDOG=1")\nnotify("READY=1")\nsignal.pause()'
    async with kept(python(many), up=lambda: ups.append("up")):
        await until(lambda: ups)


@pytest.mark.parametrize("code", [1, 69, 78])
async def test_an_optional_child_that_ends_is_not_waited_for(code):
    ups = []
    async with kept(shell(f"exit {code}", optional=True), up=lambda: ups.append("up")):
        await until(lambda: ups == ["up"])


async def test_a_cancelled_child_gets_time_to_clean_up(tmp_path):
    script = 'trap "echo clean >> $1; exit 0" TERM; echo up >> $1; while :; do sleep 0.05; done'
    async with kept(shell(script, tmp_path / "said")):
        await until((tmp_path / "said").exists)
    assert lines_of(tmp_path / "said") == ["up", "clean"]


async def test_a_child_that_does_not_listen_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "STOP_SECS", 0.2)
    script = 'trap "" TERM; echo $$ > $1.tmp; mv $1.tmp $1; while :; do sleep 0.05; done'
    async with kept(shell(script, tmp_path / "pid")):
        await until((tmp_path / "pid").exists)
        pid = int((tmp_path / "pid").read_text())
        assert is_alive(pid)
    assert not is_alive(pid)


SUPERVISOR = """
import asyncio, sys
from decnet_core import daemon
from decnet_core.program import run_program
from decnet_core.supervise import Child, keep_running

def main():
    child = (sys.executable, "-u", "-c", sys.argv[1])
    children = [Child("a", (*child, "a")), Child("b", (*child, "b"))]
    ready = daemon.Ready(2)
    tasks = {child.name: lambda child=child: keep_running(child, up=ready.one_more) for child in children}
    asyncio.run(daemon.run(tasks, ready))

run_program(main)
"""
CHILD = """
import os, signal, sys
from decnet_core.daemon import die_with_parent
die_with_parent()
os.write(1, f"up {sys.argv[1]} {os.getpid()}\\n".encode())  # whole, between the other child's lines
while True:
    signal.pause()
"""
PATIENT_CHILD = """
import os, signal, sys
from decnet_core.daemon import die_with_parent
from decnet_core.notify import notify
die_with_parent()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
os.write(1, f"up {sys.argv[1]} {os.getpid()}\\n".encode())  # whole, between the other child's lines
signal.sigwait({signal.SIGUSR1})
notify("READY=1")
os.write(1, f"ready {sys.argv[1]}\\n".encode())
while True:
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_child_outlives_its_supervisor(number):
    with Program(SUPERVISOR, CHILD) as supervisor:
        pids = [int(supervisor.line_with("up ").split()[2]) for _ in "ab"]
        assert all(map(is_alive, pids))
        supervisor.signal(number)
        wait_until(lambda: not any(map(is_alive, pids)), "a child outlived its supervisor")
        assert supervisor.wait() == (-signal.SIGKILL if number is signal.SIGKILL else 0)


def test_a_killed_child_comes_back_and_its_neighbour_does_not_notice():
    with Program(SUPERVISOR, CHILD) as supervisor:
        pids = {line[1]: int(line[2]) for line in (supervisor.line_with("up ").split() for _ in "ab")}
        os.kill(pids["a"], signal.SIGKILL)
        _, name, pid = supervisor.line_with("up ").split()
        assert name == "a"
        assert int(pid) != pids["a"]
        assert is_alive(pids["b"])


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(20)
        yield listening


def test_a_supervisor_is_ready_when_all_its_children_are(manager):
    with Program(SUPERVISOR, PATIENT_CHILD, env={"NOTIFY_SOCKET": manager.getsockname()}) as supervisor:
        pids = {line[1]: int(line[2]) for line in (supervisor.line_with("up ").split() for _ in "ab")}
        os.kill(pids["a"], signal.SIGUSR1)
        supervisor.line_with("ready a")
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)
        manager.settimeout(20)
        os.kill(pids["b"], signal.SIGUSR1)
        assert manager.recv(100) == b"READY=1"


def test_a_hopeless_child_ends_the_supervisor_and_its_neighbours():
    code = "import sys\nif sys.argv[1] == 'a': sys.exit(78)\n" + CHILD
    with Program(SUPERVISOR, code) as supervisor:
        assert "error: a ended with exit code 78" in supervisor.rest()
        assert supervisor.wait() == 78
