"""Three workers on hosts of their own: a fleet spread over them, attacked, torn out of its work, and one cut off.

Each worker has a network namespace, a Docker engine, an interface name and a subnet of its own (`worker_hosts`). The
tests share one swarm and come in this order.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from typing import Any

import pytest

from decnet_core.errors import ExitCode
from tests.journeys.conftest import kill_alone
from tests.lab.attack import Expectation, Target, visit
from tests.lab.screen import Screen, find
from tests.lab.slots import MissingPart
from tests.lab.swarm import Swarm, Worker
from tests.lab.worker_hosts import Backbone, worker_hosts

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow]

INTERFACES = ("ens18", "enp3s0", "trunk0")
EVENTS_SECS = 60.0  # longer than any back-off on the way
LEVEL_SECS = 60.0
CONVERGED_SECS = 120.0  # two pauses of the slowest repeat, on a machine that is busy with other things


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with contextlib.ExitStack() as stack:
        try:
            backbone = stack.enter_context(Backbone())
            hosts = stack.enter_context(worker_hosts(backbone, INTERFACES))
        except MissingPart as missing:
            pytest.skip(f"missing: {missing.message}. {missing.advice}")
        yield stack.enter_context(Swarm(tmp_path_factory.mktemp("swarm"), backbone, hosts))


@pytest.fixture
def screen(swarm: Swarm) -> Iterator[Screen]:
    with Screen(swarm.api_url, swarm.admin_password) as screen:
        yield screen


def test_a_fleet_is_spread_over_all_workers_and_every_touch_is_told_of_the_right_one(
    swarm: Swarm, screen: Screen
) -> None:
    reply = json.loads(swarm.master_cli("deploy", "--count", "6", "--service", "ssh", "--json"))
    assert [(row["host"], row["ok"]) for row in reply["results"]] == [("w1", True), ("w2", True), ("w3", True)]
    assert Counter(decky["host"] for decky in swarm.deckies()) == {"w1": 2, "w2": 2, "w3": 2}
    for worker in swarm.workers.values():
        assert all(IPv4Address(target.address) in worker.host.lan.subnet for target in _targets(swarm, worker))
    _attack_and_see(swarm, screen, swarm.workers)


def test_everything_is_killed_in_the_middle_of_a_deploy_and_it_converges(swarm: Swarm, screen: Screen) -> None:
    before = {name: worker.agent.log_text().count("shard.planned") for name, worker in swarm.workers.items()}
    command = subprocess.Popen(
        swarm.argv("master", "decnet-master", "deploy", "--count", "3", "--service", "ssh", "--json"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=swarm.environment("master"),
    )
    try:
        swarm.master.wait_until(
            lambda: any(w.agent.log_text().count("shard.planned") > before[n] for n, w in swarm.workers.items()),
            "worker that has begun",
            timeout_secs=LEVEL_SECS,
        )
        kill_alone(swarm.master)
        for worker in swarm.workers.values():
            kill_alone(worker.agent)
            worker.updater.kill()
        assert command.wait(LEVEL_SECS) != 0, "who asked is told that it was not answered"
    finally:
        command.kill()
        command.wait()
    swarm.master.start()
    for worker in swarm.workers.values():
        worker.start()
    for worker in swarm.workers.values():
        worker.wait()
    swarm.wait_for_master()

    # Nobody asks for anything again: what was wanted is known, and each worker is made so.
    swarm.master.wait_until(
        lambda: [decky["phase"] for decky in swarm.deckies()] == ["running"] * 9,
        "fleet that runs",
        timeout_secs=CONVERGED_SECS,
    )
    assert Counter(decky["host"] for decky in swarm.deckies()) == {"w1": 3, "w2": 3, "w3": 3}
    for worker in swarm.workers.values():
        assert _containers(worker) == {target.name: "running" for target in _targets(swarm, worker)}
    _await_taps(swarm)
    _attack_and_see(swarm, screen, swarm.workers)


def test_a_worker_that_is_decommissioned_is_refused_and_the_others_go_on(swarm: Swarm, screen: Screen) -> None:
    gone = swarm.workers["w2"]
    target = _targets(swarm, gone)[0]
    stored = len(_rows(screen, "w2"))
    assert stored > 0
    swarm.master_cli("swarm", "decommission", "w2", "--yes")
    swarm.master.wait_for_line(r'"logship@w2".*"its host is not active.*"sender\.refused"', timeout_secs=LEVEL_SECS)
    renewal = swarm.attempt("w2", ["decnet-agent", "renew", "--now"])
    assert renewal.returncode == ExitCode.TRUST, renewal.stderr
    assert "not active" in renewal.stderr

    # What is done to its deckies now is nobody's evidence any more; what was acknowledged stays.
    visit(gone.host.lan.attacker, target, secrets.token_hex(3))
    reply = json.loads(swarm.master_cli("deploy", "--count", "2", "--service", "ssh", "--json"))
    assert [(row["host"], row["ok"]) for row in reply["results"] if row["host"] != "w2"] == [("w1", True), ("w3", True)]
    assert Counter(decky["host"] for decky in swarm.deckies()) == {"w1": 4, "w2": 3, "w3": 4}
    assert [row["host"] for row in swarm.check()] == ["w1", "w3"]
    _attack_and_see(swarm, screen, ["w1", "w3"])
    assert len(_rows(screen, "w2")) == stored


def _attack_and_see(swarm: Swarm, screen: Screen, names: Collection[str]) -> None:
    """Break into a decky of each worker from that worker's own LAN, and find every event told of that worker."""

    def attack(name: str) -> list[Expectation]:
        worker = swarm.workers[name]
        return visit(worker.host.lan.attacker, _targets(swarm, worker)[-1], secrets.token_hex(3))

    with ThreadPoolExecutor() as attackers:
        expected = dict(zip(names, attackers.map(attack, names), strict=True))
    for name, events in expected.items():
        assert screen.wait_for(events, timeout_secs=EVENTS_SECS) == []
        found = [find(event, screen.seen()) for event in events]
        assert {seen.row["worker"] for seen in found if seen is not None} == {name}
    stored = screen.stored()
    assert [identifier for identifier, n in Counter(row["id"] for row in stored).items() if n > 1] == []


def _targets(swarm: Swarm, worker: Worker) -> list[Target]:
    """Name a worker's deckies as an attacker meets them."""
    return [
        Target(decky["name"], decky["ip"], decky["accounts"][0]["user"], decky["accounts"][0]["password"])
        for decky in swarm.deckies()
        if decky["host"] == worker.name
    ]


def _containers(worker: Worker) -> dict[str, str]:
    """List what the worker's engine holds: each decky's status by its name."""
    client = worker.host.engine.client()
    try:
        listed = client.containers.list(all=True, filters={"label": "decnet.decky"})
        assert len({one.labels["decnet.decky"] for one in listed}) == len(listed)
        return {one.labels["decnet.decky"]: one.status for one in listed}
    finally:
        client.close()


def _await_taps(swarm: Swarm) -> None:
    def all_tap() -> bool:
        return [row.get("taps") for row in swarm.check()] == ["kernel"] * len(swarm.workers)

    swarm.master.wait_until(all_tap, "tap of every worker", timeout_secs=LEVEL_SECS)


def _rows(screen: Screen, worker: str) -> list[dict[str, Any]]:
    return [dict(row) for row in screen.stored() if row["worker"] == worker]
