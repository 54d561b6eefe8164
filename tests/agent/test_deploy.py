"""Real deckies on a real engine: deployed, attacked, collected, survived."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from decnet_core.fleet import Account, DeckySpec, Shard
from tests.agent.worker import Worker
from tests.lab.engine import LabEngine
from tests.lab.lan import Lan

pytestmark = [pytest.mark.docker, pytest.mark.root]

ACCOUNTS = (Account(user="root", password="toor"), Account(user="alice", password="wonder"))


def shard(generation: int, *names: str) -> Shard:
    specs = tuple(DeckySpec(name=name, services=("ssh",), accounts=ACCOUNTS) for name in names)
    return Shard(generation=generation, deckies=specs)


@pytest.fixture(scope="module")
def worker(tmp_path_factory, lab_engine: LabEngine, lan: Lan, decky_image: str) -> Iterator[Worker]:
    del decky_image
    lab_engine.sweep()
    settings = {"interface": lan.parent, "subnet": lan.subnet, "ip-range": f"{lan.host(128)}/25"}
    with Worker(tmp_path_factory.mktemp("worker"), docker_host=lab_engine.docker_host, lan=settings) as worker:
        yield worker
    lab_engine.sweep()


@pytest.fixture(scope="module")
def deployed(worker: Worker) -> dict[str, dict[str, object]]:
    report = worker.deploy(shard(1, "files01", "mail02"))
    assert [decky["phase"] for decky in report["deckies"]] == ["running", "running"], report
    return {decky["name"]: decky for decky in report["deckies"]}


def wait_for_event(worker: Worker, event_type: str, **fields: str) -> None:
    def there() -> bool:
        return any(
            event.event_type == event_type and fields.items() <= event.fields.items() for event in worker.events()
        )

    worker.daemon.wait_until(there, f"{event_type} with {fields}", timeout_secs=30)


def attempt(lan: Lan, worker: Worker, address: object, user: str, password: str, command: str = "true") -> bool:
    """Log in once sshd is up; tell whether the password was taken."""
    worker.daemon.wait_until(lambda: lan.attacker.reaches(str(address), 22), "sshd", timeout_secs=30)
    done = lan.attacker.ssh(str(address), user, password, command)
    assert done.returncode == 0 or b"Permission denied" in done.stderr, done
    return done.returncode == 0


def test_a_decky_is_what_was_asked_for(deployed, lab_engine):
    client = lab_engine.client()
    try:
        for name, decky in deployed.items():
            container = client.containers.get(decky["container"])
            config, host = container.attrs["Config"], container.attrs["HostConfig"]
            assert config["Hostname"] == name
            assert config["Labels"]["decnet.decky"] == name
            assert host["CapDrop"] == ["ALL"]
            assert len(host["CapAdd"]) == 9
            assert not host["Privileged"]
            assert host["PidsLimit"] == 512
            assert host["LogConfig"]["Config"] == {"max-size": "67108864", "max-file": "4"}
            assert all("toor" not in text for text in (config["Env"] or []) + (config["Cmd"] or []))
            network = container.attrs["NetworkSettings"]["Networks"]["decoy-lan"]
            assert (network["IPAddress"], network["MacAddress"]) == (decky["ip"], decky["mac"])
    finally:
        client.close()


def test_logins_become_events(worker, deployed, lan):
    address = deployed["files01"]["ip"]
    assert not attempt(lan, worker, address, "root", "wrong")
    assert attempt(lan, worker, address, "root", "toor", "id -u")
    assert attempt(lan, worker, address, "alice", "wonder", "pwd; ls -a")
    forged = "root from 1.2.3.4 port 1 ssh2"
    assert not attempt(lan, worker, address, forged, "x")
    wait_for_event(worker, "login.failed", user="root", known_user="true")
    wait_for_event(worker, "login.succeeded", user="alice", method="password")
    wait_for_event(worker, "login.failed", user=forged, known_user="false")
    wait_for_event(worker, "session.closed", user="alice")
    logins = [event for event in worker.events() if event.event_type.startswith("login.")]
    assert {event.src_ip for event in logins} == {str(lan.attacker.address)}
    assert {(event.decky, event.service, event.trust.value) for event in logins} == {("files01", "ssh", "guest")}


def test_host_keys_differ_between_deckies(worker, deployed, lan):
    scans = []
    for decky in deployed.values():
        attempt(lan, worker, decky["ip"], "root", "toor")
        scanned = lan.attacker.run(["ssh-keyscan", "-T", "10", str(decky["ip"])]).stdout.split(b"\n")
        scans.append({line.split()[2] for line in scanned if line})
    assert len(scans[0]) == len(scans[1]) == 3
    assert scans[0].isdisjoint(scans[1])


def test_the_same_shard_twice_changes_nothing(worker, deployed):
    again = worker.deploy(shard(1, "files01", "mail02"))
    assert {decky["name"]: decky for decky in again["deckies"]} == deployed
    assert again["removed"] == []


def test_a_newer_generation_leaves_what_is_the_same_alone(worker, deployed):
    report = worker.deploy(shard(2, "files01", "mail02"))
    assert {decky["container"] for decky in report["deckies"]} == {decky["container"] for decky in deployed.values()}


@pytest.mark.usefixtures("deployed")
def test_an_older_generation_is_refused(worker):
    answer = worker.call("POST", "/deploy", shard(1).model_dump(mode="json"))
    assert (answer.status, answer.media_type) == (409, "application/problem+json")
    assert answer.document["type"] == "urn:decnet:problem:conflict"


def test_the_taps_learn_what_runs(worker, deployed):
    def told() -> bool:
        listed = json.loads((worker.folder / "run/deckies.json").read_text())
        return {(item["name"], item["container_id"]) for item in listed} == {
            (name, decky["container"]) for name, decky in deployed.items()
        }

    worker.daemon.wait_until(told, "deckies.json")
    for item in json.loads((worker.folder / "run/deckies.json").read_text()):
        assert Path(f"/proc/{item['pid1']}/comm").read_text() == "init\n"
        assert Path(item["rootfs"], "etc/debian_version").exists()
        assert item["services"] == ["ssh"]


def test_each_line_once_over_a_kill_of_the_agent(worker, deployed, lan, lab_engine):
    address = deployed["mail02"]["ip"]
    for number in range(3):
        attempt(lan, worker, address, f"before{number}", "x")
        if number == 1:
            worker.daemon.kill()
            assert lan.attacker.ssh(str(address), "during", "x").returncode != 0
            worker.start()
    assert attempt(lan, worker, address, "root", "toor", "logger -t mark all-is-said")
    worker.daemon.wait_until(lambda: any("all-is-said" in event.text for event in worker.events()), "the last line")
    users = Counter(
        event.fields["user"]
        for event in worker.events()
        if event.event_type == "login.failed" and event.decky == "mail02"
    )
    assert users == {"before0": 1, "before1": 1, "before2": 1, "during": 1}
    ids = Counter(event.id for event in worker.events())
    assert max(ids.values()) == 1
    client = lab_engine.client()
    try:
        console = client.containers.get(deployed["mail02"]["container"]).logs().split(b"\n")
    finally:
        client.close()
    said = sum(b"Failed password" in line for line in console)
    assert said == sum(users.values())


def test_each_line_once_over_a_restart_of_the_decky(worker, deployed, lan, lab_engine):
    client = lab_engine.client()
    try:
        container = client.containers.get(deployed["mail02"]["container"])
        for number in range(3):
            attempt(lan, worker, deployed["mail02"]["ip"], f"life{number}", "x")
            container.restart(timeout=1)
        attempt(lan, worker, deployed["mail02"]["ip"], "life3", "x")
        wait_for_event(worker, "login.failed", user="life3")
        console = container.logs(timestamps=True).split(b"\n")
    finally:
        client.close()
    users = Counter(event.fields["user"] for event in worker.events() if event.event_type == "login.failed")
    assert [users[f"life{number}"] for number in range(4)] == [1, 1, 1, 1]
    ours = [event for event in worker.events() if event.source == f"container:{deployed['mail02']['container']}"]
    said = [line for line in console if line.partition(b" ")[2].strip()]
    assert abs(len(said) - len(ours)) <= 2, "the last lines may still be on their way"


def test_teardown_removes_and_keeps_the_last_words(worker, deployed, lan):
    assert attempt(lan, worker, deployed["files01"]["ip"], "root", "toor", "logger -t mark last-words")
    report = worker.deploy(shard(3, "mail02"), "/teardown")
    assert report["removed"] == ["files01"]
    assert any("last-words" in event.text for event in worker.events())
    status = worker.call("GET", "/status").document
    assert [decky["name"] for decky in status["deckies"]] == ["mail02"]
    assert status["generation"] == 3
    assert status["engine"].count(".") >= 1


def test_what_is_missing_after_a_start_is_brought_back(worker, deployed, lab_engine):
    worker.daemon.stop()
    client = lab_engine.client()
    try:
        for container in client.containers.list(all=True):
            container.remove(force=True)
    finally:
        client.close()
    worker.start()

    def back() -> bool:
        deckies = worker.call("GET", "/status").document["deckies"]
        return [(decky["name"], decky["phase"], decky["ip"]) for decky in deckies] == [
            ("mail02", "running", deployed["mail02"]["ip"])
        ]

    worker.daemon.wait_until(back, "mail02 again", timeout_secs=60)
