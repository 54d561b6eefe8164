"""One line makes a bare Debian a worker: pasted, refused, cut off, pasted again.

    namespace of the lab's segment                       container with systemd, nothing but Debian
    decnet-master serve, its wheels   10.77.n.50 ──────── 10.77.n.9   the line

The machine has Python and systemd, but neither python3-venv nor pip nor Docker, and no way to any index. The tests
follow one another on it: what is refused leaves it bare for the next.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from decnet_core.enrolment import JoinToken
from decnet_core.errors import ExitCode
from tests.lab.engine import LabEngine
from tests.lab.lan import Lan
from tests.lab.machine import BARE, Done, Machine
from tests.lab.processes import Daemon
from tests.lab.slots import MissingPart
from tests.packaging.wheels import ROOT, clean_environment, uv

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow]

MACHINE_HOST = 9
UNITS = ("decnet-agent", "decnet-containment", "decnet-logship", "decnet-tap", "decnet-updater")
INSTALLED = "/opt/decnet/current"


class Office:
    """The master, in the namespace at the other end of the segment."""

    def __init__(self, folder: Path, lan: Lan) -> None:
        self.folder = folder
        self._attacker = lan.attacker
        self.address = str(lan.attacker.address)
        ini = folder / "decnet.ini"
        folders = "".join(f"{name}-directory = {folder / name}\n" for name in ("data", "log", "run"))
        ini.write_text(f"[decnet]\n{folders}[master]\npublic-address = {self.address}\n")
        self._env = {"DECNET_CONFIG": str(ini)}
        self.master = Daemon(self._argv("serve"), log_path=folder / "master.log", env=self._env)

    def cli(self, *arguments: str) -> str:
        done = subprocess.run(
            self._argv(*arguments),
            env={**clean_environment(), **self._env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def line(self, host: str, *options: str) -> tuple[str, JoinToken]:
        reply = json.loads(self.cli("swarm", "enroll", host, "--bootstrap", "--json", *options))
        return reply["line"], JoinToken.parse(reply["token"])

    def _argv(self, *arguments: str) -> list[str]:
        return self._attacker.argv([str(Path(sys.executable).parent / "decnet-master"), *arguments])


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `scripts/wheelhouse` makes for Debian's own Python."""
    house = tmp_path_factory.mktemp("house")
    env = {**clean_environment(), "PATH": f"{Path(uv()).parent}:{os.environ['PATH']}"}
    argv = [ROOT / "scripts" / "wheelhouse", "--python", "3.11", house]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode == ExitCode.UNAVAILABLE:
        pytest.skip(f"missing: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return house


@pytest.fixture(scope="module")
def segment() -> Iterator[Lan]:
    """A LAN of its own: on the other journeys' one deckies live, and an interface takes one network of the engine."""
    try:
        with Lan() as lan:
            yield lan
    except MissingPart as missing:
        pytest.skip(f"missing: {missing.message}. {missing.advice}")


@pytest.fixture(scope="module")
def office(segment: Lan, wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    office = Office(tmp_path_factory.mktemp("office"), segment)
    office.cli("init", "--json")
    with office.master:
        office.master.wait_for_line("controller.started", timeout_secs=60)
        office.cli("bundle", "build", "--wheels", str(wheelhouse))
        yield office


@pytest.fixture(scope="module")
def machine(lab_engine: LabEngine, segment: Lan) -> Iterator[Machine]:
    try:
        with Machine(lab_engine, {}, packages=BARE, segment=(segment, segment.host(MACHINE_HOST))) as machine:
            yield machine
    except MissingPart as missing:
        pytest.skip(f"missing: {missing.message}. {missing.advice}")


def paste(machine: Machine, line: str) -> Done:
    return machine.attempt("sh", "-c", line)


def test_a_token_of_another_master_goes_nowhere(machine: Machine, office: Office) -> None:
    line, token = office.line("stranger")
    foreign = token.model_copy(update={"pin": "0" * 64})
    done = paste(machine, line.replace(token.encode(), foreign.encode()))
    assert done.code == ExitCode.TRUST, done.out
    assert "has another fingerprint" in done.out
    assert "bundle." not in office.master.log_text()  # the secret was shown to nobody
    assert machine.attempt("test", "-e", "/opt/decnet").code != 0


def test_a_script_that_is_not_the_one_of_the_line_does_not_run(machine: Machine, office: Office) -> None:
    line, _token = office.line("forged")
    begin = line.index('hexdigest()=="') + len('hexdigest()=="')
    done = paste(machine, line[:begin] + "0" * 64 + line[begin + 64 :])
    assert done.code == ExitCode.TRUST, done.out
    assert "is not the master that made this line" in done.out


def test_a_wheel_that_somebody_changed_is_not_installed(machine: Machine, office: Office) -> None:
    line, _token = office.line("tampered")
    wheel = max((office.folder / "data/bundles/wheels").iterdir(), key=lambda path: path.stat().st_size)
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        done = paste(machine, line)
    finally:
        wheel.write_bytes(whole)
    assert done.code == ExitCode.TRUST, done.out
    assert "another SHA-256" in done.out
    assert machine.attempt("test", "-e", INSTALLED).code != 0
    assert machine.attempt("id", "decnet").code != 0


def test_a_line_that_was_cut_off_goes_on_and_the_next_one_changes_nothing(machine: Machine, office: Office) -> None:
    line, token = office.line("w1")
    _cut_off_when_there_is(machine, line, "/opt/decnet/releases/*/bin/python")  # wheels are being installed
    _cut_off_when_there_is(machine, line, "/var/lib/decnet/enrolment.json")  # joined: the token is used

    done = paste(machine, line)
    assert done.code == 0, done.out
    assert "the master sees its agent" in done.out
    assert "there is no Docker engine here" in done.out
    for unit in UNITS:
        assert machine.run("systemctl", "is-active", unit).strip() == "active", machine.journal(unit)
        assert machine.run("systemctl", "is-enabled", unit).strip() == "enabled"
    (worker,) = [host for host in json.loads(office.cli("swarm", "list", "--json"))["hosts"] if host["name"] == "w1"]
    assert (worker["status"], worker["address"]) == ("active", str(machine_address(machine)))
    (checked,) = json.loads(office.cli("swarm", "check", "--json"))["results"]
    assert (checked["host"], checked["ok"]) == ("w1", True)

    pids = [_pid(machine, unit) for unit in UNITS]
    again = paste(machine, line)
    assert again.code == 0, again.out
    assert "nothing had to be changed" in again.out
    assert [_pid(machine, unit) for unit in UNITS] == pids

    assert token.secret not in machine.journal(lines=100_000) + office.master.log_text()
    assert machine.shell(f"grep -rlF -- '{token.secret}' /opt/decnet /etc /var/lib/decnet /run /tmp || true") == ""
    assert machine.run("stat", "-c", "%U:%G %a", "/etc/decnet/decnet.ini").strip() == "root:decnet 640"


def test_a_host_that_has_joined_does_not_become_another(machine: Machine, office: Office) -> None:
    other, token = office.line("w2")
    done = paste(machine, other)
    assert done.code == ExitCode.CONFLICT, done.out
    assert "has joined already, as w1" in done.out
    office.cli("swarm", "tokens", "revoke", token.id)


def test_enrolled_again_without_the_updater_it_is_without_it(machine: Machine, office: Office) -> None:
    office.cli("swarm", "decommission", "w1", "--yes")
    line, _token = office.line("w1", "--without", "updater")
    done = paste(machine, line)
    assert done.code == 0, done.out
    assert machine.attempt("test", "-e", "/etc/systemd/system/decnet-updater.service").code != 0
    assert machine.attempt("test", "-e", f"{INSTALLED}/bin/decnet-updater").code != 0
    assert machine.run("systemctl", "is-active", "decnet-agent").strip() == "active"
    (checked,) = json.loads(office.cli("swarm", "check", "--json"))["results"]
    assert (checked["host"], checked["ok"]) == ("w1", True)


def machine_address(machine: Machine) -> str:
    return machine.shell("hostname -I").split()[0]


def _cut_off_when_there_is(machine: Machine, line: str, path: str) -> None:
    """Paste the line, and kill all that it started once a file is there."""
    begin = 'setsid sh -c "$LINE" >/run/paste.log 2>&1 & echo $!'
    group = machine.shell(begin, env={"LINE": line}).strip()
    deadline = time.monotonic() + 120
    while machine.attempt("sh", "-c", f"ls {path}").code != 0:
        assert time.monotonic() < deadline, machine.run("cat", "/run/paste.log")
        time.sleep(0.02)
    machine.attempt("kill", "-KILL", "--", f"-{group}")
    machine.wait_for("sh", "-c", f"kill -0 -- -{group} 2>/dev/null || echo gone", out="gone")


def _pid(machine: Machine, unit: str) -> str:
    return machine.run("systemctl", "show", "--value", "-p", "MainPID", unit).strip()
