"""One site with two deckies for all journeys: bringing it up is the slow part, and surviving each other is a test."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.lab.engine import LabEngine
from tests.lab.lan import Lan
from tests.lab.processes import Daemon
from tests.lab.screen import Screen
from tests.lab.site import Site

_END_SECS = 15.0  # a supervised program has ten seconds to end


@pytest.fixture(scope="session")
def site(lab_engine: LabEngine, decky_image: str, lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    assert decky_image  # built before the first deploy, which then takes seconds
    with Site(tmp_path_factory.mktemp("site"), lab_engine.docker_host, lan) as site:
        site.master_cli("deploy", "--count", "2", "--service", "ssh", "--json")
        yield site
        site.master_cli("teardown", "--yes", "--json")


@pytest.fixture(scope="session")
def engine_client(lab_engine: LabEngine) -> Iterator[docker.DockerClient]:
    with contextlib.closing(lab_engine.client()) as client:
        yield client


@pytest.fixture
def screen(site: Site) -> Iterator[Screen]:
    with Screen(site.api_url, site.admin_password) as screen:
        yield screen


def child_pid(daemon: Daemon, program: str, verb: str) -> int | None:
    """The pid of a supervisor's child by its program and verb, None while it does not run."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    for pid in children:
        with contextlib.suppress(OSError):
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if any(program in word for word in argv) and verb in argv:
                return int(pid)
    return None


def kill_alone(daemon: Daemon) -> None:
    """Kill a supervisor with SIGKILL, and wait until its children have ended by themselves, as they promise."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    daemon.kill()
    deadline = time.monotonic() + _END_SECS
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline, f"children outlive their supervisor: {children}"
        time.sleep(0.02)


def kill_child(daemon: Daemon, program: str, verb: str) -> None:
    """Kill a supervisor's child with SIGKILL, and wait until it has been started again."""
    old = child_pid(daemon, program, verb)
    assert old is not None, f"{program} {verb} does not run"
    os.kill(old, signal.SIGKILL)
    daemon.wait_until(
        lambda: child_pid(daemon, program, verb) not in {None, old}, f"new {program} {verb}", timeout_secs=30
    )
