"""Real neighbours on a real LAN: no decky gets an address that somebody has, and two workers never one between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address

import pytest

from decnet_agent.deploying.lan import Claim
from decnet_agent.engine.client import Engine, Limits
from decnet_agent.engine.contexts import ImageContexts
from decnet_agent.engine.labels import LABEL_PROBE
from decnet_core.errors import ConfigError, Unavailable
from decnet_core.fleet import Account, DeckySpec, Shard
from tests.agent.worker import Worker
from tests.lab.engine import LabEngine
from tests.lab.image import ensure_images
from tests.lab.lan import Lan
from tests.lab.second_port import add_second_port

pytestmark = [pytest.mark.docker, pytest.mark.root]

ACCOUNT = Account(user="root", password="toor")


def shard(generation: int, ip: IPv4Address | None, *names: str) -> Shard:
    specs = tuple(DeckySpec(name=name, services=("ssh",), accounts=(ACCOUNT,), ip=ip) for name in names)
    return Shard(generation=generation, deckies=specs)


@pytest.fixture
def segment() -> Iterator[Lan]:
    """A segment of this test's own, for it is changed."""
    with Lan() as segment:
        yield segment


@pytest.fixture
def neighbour(segment: Lan) -> str:
    """The MAC of the machine on the segment."""
    shown = segment.attacker.run(["ip", "-brief", "link", "show", "eth0"]).stdout.decode().split()
    return shown[2]


def take(lan: Lan, address: IPv4Address) -> None:
    """Let the machine on the segment have one more address."""
    done = lan.attacker.run(["ip", "address", "add", f"{address}/24", "dev", "eth0"])
    assert done.returncode == 0, done.stderr


def engine_of(lab_engine: LabEngine) -> Engine:
    return Engine(
        lab_engine.docker_host,
        ImageContexts(None),
        network_name="unused",
        base_image="decky-base:bookworm",
        rootfs_image="decky-rootfs:bookworm",
        limits=Limits(memory_bytes=1, pids=1, log_file_bytes=1, log_files=1),
    )


@pytest.mark.usefixtures("decky_image")
def test_the_lan_is_asked_from_a_container_that_leaves_nothing(lab_engine, segment, neighbour):
    taken, free = segment.host(50), segment.host(51)
    with closing(engine_of(lab_engine)) as engine:
        assert engine.probe(segment.parent, [free, taken], []) == [Claim(taken, neighbour)]
        with pytest.raises(ConfigError, match="no-such0 cannot be used"):
            engine.probe("no-such0", [free], [])
        many = [segment.host(number) for number in range(1, 255)]
        assert engine.probe(segment.parent, many, []) == [Claim(taken, neighbour)]
    with closing(lab_engine.client()) as client:
        assert client.containers.list(all=True, filters={"label": LABEL_PROBE}) == []


def test_without_an_image_nothing_is_asked(lab_engine, segment):
    engine = Engine(
        lab_engine.docker_host,
        ImageContexts(None),
        network_name="unused",
        base_image="no-base:none",
        rootfs_image="no-rootfs:none",
        limits=Limits(memory_bytes=1, pids=1, log_file_bytes=1, log_files=1),
    )
    with closing(engine), pytest.raises(Unavailable, match="holds none of no-base:none, no-rootfs:none"):
        engine.probe(segment.parent, [segment.host(51)], [])


@pytest.mark.usefixtures("decky_image")
def test_a_neighbour_keeps_its_address(lab_engine, segment, neighbour, tmp_path):
    lab_engine.sweep()
    wanted = segment.host(77)
    take(segment, wanted)
    settings = {"interface": segment.parent, "subnet": segment.subnet}
    with Worker(tmp_path, docker_host=lab_engine.docker_host, lan=settings) as worker:
        (state,) = worker.deploy(shard(1, wanted, "files01"))["deckies"]
        assert (state["phase"], state["moved_from"]) == ("running", str(wanted)), state
        assert state["moved_because"] == f"{neighbour} has it"
        worker.daemon.wait_until(lambda: segment.attacker.reaches(state["ip"], 22), "sshd", timeout_secs=60)

        # a new agent on the same disk keeps what was given, and sees who comes later
        worker.daemon.kill()
        take(segment, IPv4Address(state["ip"]))
        worker.start()

        def told() -> dict:
            (decky,) = worker.call("GET", "/status").document["deckies"]
            return decky

        worker.daemon.wait_until(lambda: told()["contested_by"] == neighbour, "the look at the LAN", timeout_secs=120)
        assert (told()["phase"], told()["ip"]) == ("running", state["ip"])
        (moved,) = worker.deploy(shard(2, wanted, "files01"))["deckies"]
        assert (moved["phase"], moved["contested_by"]) == ("running", None), moved
        assert moved["ip"] not in (state["ip"], str(wanted))
    lab_engine.sweep()


@pytest.mark.usefixtures("decky_image")
def test_two_workers_on_one_lan_share_no_address(lab_engine, segment, tmp_path):
    """Both are told at the same moment to give the same address to a decky."""
    lab_engine.sweep()
    parents = segment.parent, add_second_port(segment)
    wanted = segment.host(77)
    names = "a", "b", "c"
    (tmp_path / "w1").mkdir()
    (tmp_path / "w2").mkdir()
    with LabEngine() as other:
        ensure_images(other)
        engines = lab_engine, other
        workers = [
            Worker(
                tmp_path / folder,
                docker_host=engine.docker_host,
                lan={"interface": parent, "subnet": segment.subnet},
            )
            for folder, engine, parent in zip(("w1", "w2"), engines, parents, strict=True)
        ]
        with workers[0], workers[1]:
            reports = _at_once(workers, shard(1, wanted, *names))
            states = [state for report in reports for state in report["deckies"]]
            assert [state["phase"] for state in states] == ["running"] * 6, states
            addresses = [state["ip"] for state in states]
            assert len(set(addresses)) == 6, addresses
            assert addresses.count(str(wanted)) <= 1
            for state in states:
                address = state["ip"]
                workers[0].daemon.wait_until(
                    lambda address=address: segment.attacker.reaches(address, 22), "sshd", timeout_secs=60
                )
                known = segment.attacker.run(["ip", "neighbour", "show", state["ip"]]).stdout.decode()
                assert state["mac"] in known
        other.sweep()
    lab_engine.sweep()


def _at_once(workers: list[Worker], wanted: Shard) -> list[dict]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(workers)) as threads:
        return list(threads.map(lambda worker: worker.deploy(wanted), workers))
