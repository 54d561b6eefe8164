"""A decky that is reset on a real engine is as new, and what a visitor did there to his last second is kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from decnet_core.events import Event
from decnet_core.fleet import Account, DeckySpec, Shard
from tests.agent.worker import Worker
from tests.lab.engine import LabEngine
from tests.lab.lan import SSH_OPTIONS, Lan

pytestmark = [pytest.mark.docker, pytest.mark.root]

ROOT = Account(user="root", password="toor")
SPEC = DeckySpec(name="vault-01", services=("ssh",), accounts=(ROOT,), mac="00:16:3e:11:22:33", seed=4242)
LOOK = "cat /etc/passwd /etc/hostname /etc/timezone; find /home /root /srv -type f | sort | xargs md5sum"
LEFT = b"left behind\n"


def test_a_reset_decky_is_as_new_and_its_evidence_is_kept(
    tmp_path: Path, lab_engine: LabEngine, lan: Lan, decky_image: str
) -> None:
    del decky_image
    lab_engine.sweep()
    settings = {"interface": lan.parent, "subnet": lan.subnet, "ip-range": f"{lan.host(128)}/25"}
    with Worker(tmp_path, docker_host=lab_engine.docker_host, lan=settings, tap=True) as worker:
        try:
            one = deployed(worker, lan, 1, SPEC)
            address = str(one["ip"])
            keys, looks = seen(lan, address)
            # he works on a line that is cut off with him
            command = "rm /etc/motd; echo left behind > /root/mine; /bin/true at-the-very-end; sleep 60"
            argv = ["sshpass", "-e", "ssh", *SSH_OPTIONS, f"root@{address}", command]
            visitor = lan.attacker.popen(argv, env={"SSHPASS": ROOT.password})
            worker.daemon.wait_until(lambda: any(runs(event, "sleep 60") for event in worker.events()), "his last line")
            two = deployed(worker, lan, 2, SPEC.model_copy(update={"resets": 1}))
            visitor.communicate(timeout=60)
            assert two["container"] != one["container"]
            assert (two["ip"], two["mac"]) == (one["ip"], one["mac"])
            assert seen(lan, address) == (keys, looks)
            assert lan.attacker.ssh(address, "root", ROOT.password, "cat /root/mine").returncode != 0
            digest = hashlib.sha256(LEFT).hexdigest()
            worker.daemon.wait_until(
                lambda: any(event.fields.get("sha256") == digest for event in worker.events()), "the file that he left"
            )
            kept = next(event for event in worker.events() if event.fields.get("sha256") == digest)
            assert (worker.folder / "data/quarantine" / kept.fields["stored_as"]).read_bytes() == LEFT
            assert sum(runs(event, "/bin/true at-the-very-end") for event in worker.events()) == 1
            # told again, nothing is made anew
            three = deployed(worker, lan, 3, SPEC.model_copy(update={"resets": 1}))
            assert three["container"] == two["container"]
        finally:
            lab_engine.sweep()


def deployed(worker: Worker, lan: Lan, generation: int, spec: DeckySpec) -> dict[str, object]:
    (decky,) = worker.deploy(Shard(generation=generation, deckies=(spec,)))["deckies"]
    assert decky["phase"] == "running", decky
    worker.daemon.wait_until(lambda: lan.attacker.reaches(str(decky["ip"]), 22), "sshd", timeout_secs=60)
    return decky


def seen(lan: Lan, address: str) -> tuple[set[bytes], bytes]:
    """What a visitor knows a machine by: its host keys, its people and their files."""
    scanned = lan.attacker.run(["ssh-keyscan", "-T", "20", address]).stdout
    keys = {line for line in scanned.split(b"\n") if line}
    assert len(keys) == 3
    return keys, lan.attacker.ssh(address, "root", ROOT.password, LOOK).stdout


def runs(event: Event, command: str) -> bool:
    return event.fields.get("command") == command
