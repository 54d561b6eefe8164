"""What a daemon costs a worker that does nothing, in the environment that a worker has."""

from __future__ import annotations

from pathlib import Path

import pytest

from decnet_core.fleet import Account, DeckySpec, Shard
from decnet_core.identity import Identity, Role
from decnet_core.pki import certificates
from decnet_core.pki.keystore import KeyStore
from tests.agent.worker import Worker
from tests.lab.processes import Daemon
from tests.pki.world import Ca, now

pytestmark = pytest.mark.slow

UPDATER_MIB = 50
AGENT_MIB = 60


def test_an_idle_updater_is_small(wheels, tmp_path):
    ca = Ca.make()
    store = KeyStore(tmp_path / "identities")
    certificate = ca.issue(Identity(Role.UPDATER, "web-1"), store.create_key(Role.UPDATER))
    store.store(Role.UPDATER, certificates.certificate_pem(certificate), ca.pem, now())
    (tmp_path / "decnet.ini").touch()
    surroundings = {
        "DECNET_CONFIG": str(tmp_path / "decnet.ini"),
        "DECNET_DATA_DIRECTORY": str(tmp_path),
        "DECNET_UPDATER_ADDRESS": "127.0.0.1:0",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    command = [str(wheels.environment("decnet-updater").folder / "bin" / "decnet-updater"), "serve"]
    # Once to have its bytecode written, as an installation leaves it; the second run is the one that lasts.
    for run in ("first", "second"):
        with Daemon(command, log_path=tmp_path / f"{run}.log", env=surroundings) as daemon:
            port = int(daemon.wait_for_line(r'"address": "127\.0\.0\.1:(\d+)"')[1])
            daemon.wait_for_port(port)
            resident_kib = _resident_kib(daemon.pid)
    assert resident_kib < UPDATER_MIB * 1024


@pytest.mark.docker
@pytest.mark.root
def test_an_agent_that_has_deployed_is_small(wheels, tmp_path, lab_engine, lan, decky_image, monkeypatch):
    """The Docker library is loaded by then, and what applying a shard took is given back."""
    del decky_image
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    program = wheels.environment("decnet-agent").folder / "bin/decnet-agent"
    settings = {"interface": lan.parent, "subnet": lan.subnet, "ip-range": f"{lan.host(128)}/25"}
    accounts = (Account(user="root", password="toor"),)
    specs = tuple(DeckySpec(name=f"web-{number}", services=("ssh",), accounts=accounts) for number in range(3))
    lab_engine.sweep()
    worker = Worker(tmp_path, docker_host=lab_engine.docker_host, lan=settings, program=program)
    try:
        for generation in (1, 2):  # the first time its bytecode is written, as above
            with worker:
                report = worker.deploy(Shard(generation=generation, deckies=specs))
                assert {decky["phase"] for decky in report["deckies"]} == {"running"}, report
                resident_kib = _resident_kib(worker.daemon.pid)
            lab_engine.sweep()
    finally:
        lab_engine.sweep()
    assert resident_kib < AGENT_MIB * 1024


def _resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])
