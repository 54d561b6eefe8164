"""Both ends as processes of their own, killed the hard way again and again while lines are written and files rotate."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from decnet_core.errors import ExitCode
from tests.lab.processes import Daemon, free_port
from tests.shipping.place import Log, Place, streams

LINES = 20_000
KILLS = 6


def environment(place: Place, port: int) -> dict[str, str]:
    return {
        "DECNET_CONFIG": str(place.folder / "decnet.ini"),
        "DECNET_LISTENER_ADDRESS": f"127.0.0.1:{port}",
        "DECNET_MASTER": f"127.0.0.1:{port}",
        "DECNET_LOG_DIRECTORY": str(place.log_path.parent),
        "DECNET_RECONNECT_MAX_SECS": "0.5",
    }


def listener(place: Place, port: int) -> Daemon:
    env = environment(place, port) | {"DECNET_DATA_DIRECTORY": str(place.master_data)}
    argv = [sys.executable, str(Path(__file__).with_name("run_listener.py"))]
    return Daemon(argv, log_path=place.folder / "listener.out", env=env)


def logship(place: Place, port: int, more: dict[str, str] | None = None) -> Daemon:
    env = environment(place, port) | {"DECNET_DATA_DIRECTORY": str(place.worker_data)} | (more or {})
    argv = [sys.executable, "-m", "decnet_logship", "serve"]
    return Daemon(argv, log_path=place.folder / "logship.out", env=env)


@pytest.fixture
def enrolled(place: Place) -> Place:
    (place.folder / "decnet.ini").write_text("[decnet]\n")
    place.enrol_in_database()
    return place


@pytest.mark.slow
def test_exactly_once_through_kills_of_both_sides(enrolled: Place) -> None:
    place, port = enrolled, free_port()
    log = Log(place.log_path)
    draw = random.Random(7)
    with listener(place, port) as master, logship(place, port) as worker:
        master.wait_for_line("listener.started")
        for number in range(LINES):
            log.write(b"line %d of many, some longer than others %s" % (number, b"x" * (number % 300)))
            if number % (LINES // KILLS) == LINES // KILLS - 1:
                victim = draw.choice((master, worker))
                worker.wait_until(place.journal.exists, "a journal")
                victim.kill()
                if draw.random() < 0.5:
                    log.begin()
                victim.start()
            elif number % 4_000 == 1_999:
                log.begin()
            if number % 200 == 0:
                time.sleep(0.01)  # a pace, not a wait: the kills fall among the lines
        worker.wait_until(lambda: arrived_bytes(place) >= written_bytes(log), "everything", timeout_secs=60)
        assert streams(place.journal) == log.written
        worker.wait_until(lambda: len(list(place.log_path.parent.glob("events.log*"))) == 1, "removal of what is there")
        assert worker.stop() == 0
        assert master.stop() == 0
    assert streams(place.journal) == log.written


def written_bytes(log: Log) -> int:
    return sum(len(line) + 1 for lines in log.written.values() for line in lines)


def arrived_bytes(place: Place) -> int:
    return sum(len(line) + 1 for lines in streams(place.journal).values() for line in lines)


@pytest.mark.slow
def test_a_link_that_swallows_everything_is_given_up(enrolled: Place) -> None:
    """A stopped listener: its kernel goes on accepting bytes and connections, and nobody answers."""
    place, port = enrolled, free_port()
    log = Log(place.log_path)
    patience = {"DECNET_ACK_TIMEOUT_SECS": "1", "DECNET_CONNECT_TIMEOUT_SECS": "1"}
    with listener(place, port) as master, logship(place, port, patience) as worker:
        worker.wait_for_line("stream.resumed")
        os.kill(master.pid, signal.SIGSTOP)
        log.write(b"into the void")
        worker.wait_for_line("acknowledged nothing.*connection.failed")
        worker.wait_for_line("no answer in time.*connection.failed")
        os.kill(master.pid, signal.SIGCONT)
        worker.wait_until(lambda: streams(place.journal) == log.written, "the line")


@pytest.mark.slow
def test_a_damaged_hint_is_only_a_hint(enrolled: Place) -> None:
    place, port = enrolled, free_port()
    log = Log(place.log_path)
    state = place.worker_data / "logship" / "state.json"
    said = ""
    with listener(place, port) as master:
        master.wait_for_line("listener.started")
        for hint in (
            b"",
            b"{",
            b"[" * 100_000,
            b'{"acked": 7}',
            b'{"acked": {"%s": 999999}}' % log.generation.encode(),
        ):
            state.parent.mkdir(exist_ok=True)
            state.write_bytes(hint)
            with logship(place, port) as worker:
                log.write(b"with the hint " + hint[:200])
                worker.wait_until(lambda: streams(place.journal) == log.written, "the line")
            said = worker.log_text()
        assert "stream.went_back" in said


@pytest.mark.slow
def test_logship_is_small_quick_to_name_its_version_and_clear_about_what_it_misses(enrolled: Place) -> None:
    place, port = enrolled, free_port()
    Log(place.log_path)
    with listener(place, port) as master, logship(place, port) as worker:
        master.wait_for_line("listener.started")
        worker.wait_for_line("stream.resumed")
        assert resident_mib(worker.pid) < 60
        assert resident_mib(master.pid) < 100
        worker.wait_until(
            lambda: "(connected)" in run(place, port, place.worker_data, "status").stdout, "its word on it"
        )
    missing = run(place, port, place.folder / "nothing", "serve")
    assert missing.returncode == ExitCode.TRUST
    assert "what to do" in missing.stderr
    best = min(timed_version() for _ in range(5))
    assert best < 0.25, "150 ms on a quiet machine"


def run(place: Place, port: int, data: Path, verb: str) -> subprocess.CompletedProcess[str]:
    env = environment(place, port) | {"DECNET_DATA_DIRECTORY": str(data), "PATH": "/usr/bin"}
    argv = [sys.executable, "-m", "decnet_logship", verb]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=30, check=False)


def status(place: Place, port: int) -> str:
    return run(place, port, place.worker_data, "status").stdout


def timed_version() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "decnet_logship", "--version"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    mib = pages * 4096 / (1 << 20)
    print(f"pid {pid}: {mib:.1f} MiB resident")
    return mib
