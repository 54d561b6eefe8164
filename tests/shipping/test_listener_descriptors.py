"""The listener asks for as many open files as it takes connections: most systems allow 1024 until a program does."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

import pytest

from tests.lab.processes import Daemon, free_port
from tests.shipping.place import Place

PROGRAM = Path(__file__).with_name("run_listener.py")


def started(place: Place, soft: int, hard: int) -> Daemon:
    (place.folder / "decnet.ini").write_text("[decnet]\n")
    place.enrol_in_database()
    env = {
        "DECNET_CONFIG": str(place.folder / "decnet.ini"),
        "DECNET_DATA_DIRECTORY": str(place.master_data),
        "DECNET_LISTENER_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    argv = ["prlimit", f"--nofile={soft}:{hard}", sys.executable, str(PROGRAM)]
    return Daemon(argv, log_path=place.folder / "listener.out", env=env)


def open_files_allowed(pid: int) -> int:
    found = re.search(r"Max open files\s+(\d+)", Path(f"/proc/{pid}/limits").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.slow
@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 10_000 and os.geteuid() != 0, reason="the hard limit is lower"
)
def test_it_makes_room_for_all_its_connections(place: Place) -> None:
    with started(place, 1024, 20_000) as listener:
        listener.wait_for_line("listener.started")
        assert open_files_allowed(listener.pid) > 8192
        assert "connections.limited" not in listener.log_text()


@pytest.mark.slow
def test_it_takes_fewer_where_it_may_not(place: Place) -> None:
    with started(place, 512, 1024) as listener:
        listener.wait_for_line("listener.started")
        assert open_files_allowed(listener.pid) == 1024
        told = re.search(r'"limit": (\d+)', listener.log_text())
        assert told is not None
        assert int(told[1]) == 1024 - 256 - 128
