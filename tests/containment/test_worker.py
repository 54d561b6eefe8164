"""A real worker: no decky starts uncontained, and none gets out."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from decnet_core.fleet import Account, DeckySpec, Shard
from tests.agent.worker import PROGRAM, Worker
from tests.containment.ground import greets, wait_until
from tests.lab.engine import LabEngine
from tests.lab.lan import Lan
from tests.lab.processes import Daemon

pytestmark = [pytest.mark.docker, pytest.mark.root]

NAMES = ("files01", "mail02")


def shard(generation: int, *names: str) -> Shard:
    accounts = (Account(user="root", password="toor"),)
    return Shard(
        generation=generation,
        deckies=tuple(DeckySpec(name=name, services=("ssh",), accounts=accounts) for name in names),
    )


@pytest.fixture(scope="module")
def worker(tmp_path_factory, lab_engine: LabEngine, lan: Lan, decky_image: str) -> Iterator[Worker]:
    """An agent that brings up no containment by itself."""
    del decky_image
    lab_engine.sweep()
    settings = {"interface": lan.parent, "subnet": lan.subnet, "ip-range": f"{lan.host(128)}/25"}
    worker = Worker(tmp_path_factory.mktemp("worker"), docker_host=lab_engine.docker_host, lan=settings)
    worker.daemon.argv.append("--no-containment")
    with worker:
        yield worker
        lab_engine.sweep()


@pytest.fixture(scope="module")
def containment(worker: Worker) -> Iterator[Daemon]:
    """The containment process of that worker, not started."""
    daemon = Daemon([str(PROGRAM), "containment"], log_path=worker.folder / "containment.out", env=worker.environment)
    yield daemon
    daemon.stop()


def deckies(worker: Worker) -> dict[str, dict[str, str]]:
    return {decky["name"]: decky for decky in worker.call("GET", "/status").document["deckies"]}


def test_without_containment_no_decky_starts_and_with_it_they_do(worker, containment, lan):
    report = worker.deploy(shard(1, *NAMES))
    assert [decky["phase"] for decky in report["deckies"]] == ["failed", "failed"]
    assert all("Nothing contains the deckies" in decky["error"] for decky in report["deckies"])
    assert worker.call("GET", "/status").document["containment"] == "none"
    containment.start()
    # nobody has to deploy again
    wait_until(lambda: all(decky["phase"] == "running" for decky in deckies(worker).values()), "deckies")
    assert worker.call("GET", "/status").document["containment"] == "kernel"
    for decky in deckies(worker).values():
        wait_until(lambda address=decky["ip"]: greets(lan, address), "banner")


def test_nothing_gets_out_of_a_real_decky(worker, lan):
    target = str(lan.attacker.address)
    for arguments in (["--target", target], []):  # without a target: a sibling, for there is no router here
        done = subprocess.run(
            [str(PROGRAM), "containment", "verify", "--json", *arguments],
            capture_output=True, text=True, timeout=240, check=False, env={**os.environ, **worker.environment},
        )  # fmt: skip
        assert done.stdout, done.stderr
        attempts = json.loads(done.stdout)["attempts"]
        assert [attempt for attempt in attempts if attempt["result"] != "held"] == []
        assert {attempt["decky"] for attempt in attempts} == set(NAMES)
        assert len(attempts) == (20 if arguments else 18)
        assert done.returncode == 0
