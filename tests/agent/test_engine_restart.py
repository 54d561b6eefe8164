"""Docker itself ends and comes back under a running agent: the deckies and their words survive it, each word once."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from decnet_core.fleet import Account, DeckySpec, Shard
from tests.agent.worker import Worker
from tests.lab.engine import LabEngine
from tests.lab.lan import Lan

pytestmark = [pytest.mark.docker, pytest.mark.root]


@pytest.fixture
def worker(tmp_path, lab_engine: LabEngine, lan: Lan, decky_image: str):
    del decky_image
    lab_engine.sweep()
    settings = {"interface": lan.parent, "subnet": lan.subnet, "ip-range": f"{lan.host(128)}/25"}
    with Worker(tmp_path, docker_host=lab_engine.docker_host, lan=settings) as worker:
        yield worker
    lab_engine.sweep()


def listed(worker: Worker) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((worker.folder / "run/deckies.json").read_text())}


def lives(worker: Worker, name: str, *, not_pid: int) -> bool:
    """Tell whether the taps are told of a decky's init that runs, and that is another one than before."""
    row = listed(worker).get(name)
    if row is None or row["pid1"] == not_pid:
        return False
    command = Path(f"/proc/{row['pid1']}/cgroup")
    return command.exists() and row["container_id"] in command.read_text()


# An engine that is stopped brings its containers back, one that was killed does not: then the agent does.
@pytest.mark.parametrize(("end_with", "times"), [(signal.SIGTERM, 2), (signal.SIGKILL, 1)])
def test_deckies_outlive_their_engine(worker, lab_engine, lan, end_with, times):
    spec = DeckySpec(name="files01", services=("ssh",), accounts=(Account(user="root", password="toor"),))
    report = worker.deploy(Shard(generation=1, deckies=(spec,)))
    (decky,) = report["deckies"]
    assert decky["phase"] == "running", report
    address = decky["ip"]
    users = [f"round{number}" for number in range(times + 1)]

    def knock(user: str) -> None:
        worker.daemon.wait_until(lambda: lan.attacker.reaches(address, 22), "sshd", timeout_secs=60)
        assert b"Permission denied" in lan.attacker.ssh(address, user, "x", "true").stderr

    def told(user: str) -> bool:
        return any(event.fields.get("user") == user for event in worker.events() if event.event_type == "login.failed")

    knock(users[0])
    for user in users[1:]:
        pid1 = listed(worker)["files01"]["pid1"]
        lab_engine.restart(end_with)
        worker.daemon.wait_until(lambda pid1=pid1: lives(worker, "files01", not_pid=pid1), "its init", timeout_secs=60)
        knock(user)
        worker.daemon.wait_until(lambda user=user: told(user), f"the knock of {user}", timeout_secs=30)

    status = worker.call("GET", "/status").document
    assert [(item["phase"], item["container"], item["ip"]) for item in status["deckies"]] == [
        ("running", decky["container"], address)
    ]
    failed = Counter(event.fields["user"] for event in worker.events() if event.event_type == "login.failed")
    assert {user: failed[user] for user in users} == dict.fromkeys(users, 1)
    cursors = [event.cursor for event in worker.events() if event.source == f"container:{decky['container']}"]
    assert len(cursors) == len(set(cursors))
    assert not any(event.event_type == "evidence.dropped" for event in worker.events())
