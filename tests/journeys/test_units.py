"""An installation as docs/operations.md says, on a bare Debian with systemd: wheels, user, folders, units.

Master and worker share the machine, and join over its loopback. There is no Docker engine on it: an agent answers its
master without one. The tests follow one another on the same machine, each leaves every unit running.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from decnet_core.errors import ExitCode
from tests.lab.engine import LabEngine
from tests.lab.machine import Machine
from tests.packaging.wheels import PACKAGES, ROOT, Wheels, build, clean_environment, copy_tree, uv

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow]

UNITS = ("decnet-master", "decnet-containment", "decnet-agent", "decnet-logship", "decnet-updater", "decnet-tap")
BIN = "/opt/decnet/bin"
STOP_SECS = 10.0
"""Half of TimeoutStopSec: a daemon that needs longer would be killed on a busier machine."""

INSTALL = f"""
python3 -m venv /opt/decnet
{BIN}/pip install --quiet --no-index --find-links /wheels {" ".join(PACKAGES[1:])}
install -m 0644 /systemd/*.service /etc/systemd/system/
install -m 0644 /systemd/decnet.sysusers.conf /usr/lib/sysusers.d/decnet.conf
install -m 0644 /systemd/decnet.tmpfiles.conf /usr/lib/tmpfiles.d/decnet.conf
systemd-sysusers
systemd-tmpfiles --create decnet.conf
systemctl daemon-reload
"""


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheels and all that they bring, so that the machine needs no index."""
    scratch = tmp_path_factory.mktemp("wheels")
    wheels = Wheels(build(copy_tree(tmp_path_factory.mktemp("tree")), scratch), scratch)
    house = scratch / "house"
    # Debian's own Python is 3.11, whatever runs the tests
    argv = [uv(), "tool", "run", "--python", "3.11", "pip", "download", "--quiet", "--only-binary", ":all:"]
    argv += ["--dest", str(house), *(str(wheels.path(package)) for package in PACKAGES)]
    subprocess.run(argv, check=True, timeout=180, env=clean_environment(), cwd=scratch)
    return house


@pytest.fixture(scope="module")
def machine(lab_engine: LabEngine, wheelhouse: Path):
    example = ROOT / "decnet.ini.example"
    folders = {wheelhouse: "/wheels", ROOT / "systemd": "/systemd", example: "/decnet.ini.example"}
    with Machine(lab_engine, folders) as machine:
        machine.shell(INSTALL)
        machine.shell("install -m 0640 -g decnet /decnet.ini.example /etc/decnet/decnet.ini")
        machine.shell("sed -i 's/^;public-address =.*/public-address = 127.0.0.1/' /etc/decnet/decnet.ini")
        machine.run(f"{BIN}/decnet-master", "init")
        machine.run("systemctl", "enable", "--now", "decnet-master")
        machine.run(f"{BIN}/decnet-master", "status")  # at once: the unit is started when all of it answers
        enrolled = json.loads(machine.run(f"{BIN}/decnet-master", "swarm", "enroll", "w1", "--json"))
        machine.shell(f'{BIN}/decnet-agent join - <<< "$TOKEN"', env={"TOKEN": enrolled["token"]})
        machine.run("systemctl", "enable", "--now", *UNITS[1:])
        yield machine


def test_every_unit_runs_and_is_ready(machine: Machine) -> None:
    for unit in UNITS:
        assert _state(machine, unit) == "active running", machine.journal(unit)


def test_the_master_reaches_the_worker_and_gets_its_log(machine: Machine) -> None:
    checked = json.loads(machine.run(f"{BIN}/decnet-master", "swarm", "check", "--json", user="decnet"))
    assert [(row["host"], row["ok"], row["engine"]) for row in checked["results"]] == [("w1", True, None)]
    script = f"{BIN}/decnet-master events --json | grep -c log.opened || true"
    machine.wait_for("bash", "-c", script, out="1")
    shipped = json.loads(machine.run(f"{BIN}/decnet-logship", "status", "--json", user="decnet"))
    assert shipped["connected"]


def test_only_the_tap_is_root_and_it_has_no_network(machine: Machine) -> None:
    for unit in UNITS:
        pid = _pid(machine, unit)
        owner = machine.run("stat", "--format=%U", f"/proc/{pid}").strip()
        alone = machine.run("readlink", f"/proc/{pid}/ns/net") != machine.run("readlink", "/proc/1/ns/net")
        assert (owner, alone) == (("root", True) if unit == "decnet-tap" else ("decnet", False)), unit


@pytest.mark.parametrize("unit", UNITS)
def test_a_killed_daemon_comes_back(unit: str, machine: Machine) -> None:
    before = _pid(machine, unit)
    machine.run("kill", "-9", before)
    script = f"[ $(systemctl show --value -p MainPID {unit}) != {before} ] && systemctl is-active {unit}"
    machine.wait_for("bash", "-c", script, out="active")


def test_what_the_tap_has_in_the_kernel_outlives_a_crash_and_a_restart_and_no_stop(machine: Machine) -> None:
    ring, held = _ring(machine), _held(machine)
    assert held >= 8  # ring, two maps, three tracepoints, two file queues
    before = _pid(machine, "decnet-tap")
    machine.run("kill", "-9", before)
    script = f"[ $(systemctl show --value -p MainPID decnet-tap) != {before} ] && systemctl is-active decnet-tap"
    machine.wait_for("bash", "-c", script, out="active")
    assert (_ring(machine), _held(machine)) == (ring, held), machine.journal("decnet-tap")
    machine.run("systemctl", "restart", "decnet-tap")
    assert (_ring(machine), _held(machine)) == (ring, held), machine.journal("decnet-tap")
    machine.run("systemctl", "stop", "decnet-tap")
    assert _held(machine) == 0
    machine.run("systemctl", "start", "decnet-tap")
    assert _held(machine) == held
    assert _ring(machine) not in {ring, ""}


HOLD = """
import asyncio
from pathlib import Path
from decnet_agent.containment.channel import Guard
from decnet_agent.containment.pairs import Pair
guard = Guard(Path("/run/decnet/containment.sock"))
pairs = [Pair(decky="d1", mac="52:54:00:00:00:01", ip="10.0.0.9")]
asyncio.run(guard.hold("lo", pairs))
"""


def test_two_capabilities_are_enough_to_contain_and_it_outlives_a_crash(machine: Machine) -> None:
    """On the loopback, for the machine has no other interface."""
    machine.run(f"{BIN}/python", "-c", HOLD, user="decnet")
    assert _contained(machine) == (True, [("lo", 1)])
    before = _pid(machine, "decnet-containment")
    machine.run("kill", "-9", before)
    script = f"[ $(systemctl show --value -p MainPID decnet-containment) != {before} ]"
    machine.wait_for("bash", "-c", f"{script} && systemctl is-active decnet-containment", out="active")
    assert _contained(machine) == (True, [("lo", 1)])
    machine.run(f"{BIN}/python", "-c", HOLD.replace(".hold", ".keep").replace('"lo", pairs', '"lo", []'), user="decnet")
    assert _contained(machine) == (True, [])


@pytest.mark.parametrize("unit", UNITS)
def test_stopping_is_quick_and_leaves_nothing(unit: str, machine: Machine) -> None:
    group = machine.run("systemctl", "show", "--value", "-p", "ControlGroup", unit).strip()
    began = time.monotonic()
    machine.run("systemctl", "stop", unit)
    assert time.monotonic() - began < STOP_SECS
    assert machine.run("systemctl", "show", "--value", "-p", "Result", unit).strip() == "success", machine.journal(unit)
    assert group
    assert group not in machine.shell("cat /proc/[0-9]*/cgroup 2>/dev/null || true")
    machine.run("systemctl", "start", unit)


@pytest.mark.parametrize("unit", ["decnet-agent", "decnet-logship", "decnet-updater"])
def test_what_only_a_person_can_mend_is_not_tried_again(unit: str, machine: Machine) -> None:
    role = unit.removeprefix("decnet-")
    link = f"/var/lib/decnet/identities/{role}"
    machine.run("systemctl", "stop", unit)
    machine.run("mv", link, f"{link}.away")
    try:
        assert machine.attempt("systemctl", "start", unit).code != 0
        shown = machine.run("systemctl", "show", "-p", "ActiveState,ExecMainStatus,NRestarts", unit)
        assert set(shown.split()) == {"ActiveState=failed", "ExecMainStatus=77", "NRestarts=0"}
        assert "what to do: " in machine.journal(unit)
    finally:
        machine.run("mv", f"{link}.away", link)
        machine.run("systemctl", "reset-failed", unit)
        machine.run("systemctl", "start", unit)


@pytest.mark.parametrize(
    "command",
    [
        *(
            f"decnet-master {verb}"
            for verb in ("init", "serve", "listener", "ingester", "events", "status", "swarm list")
        ),
        *(f"decnet-agent {verb}" for verb in ("serve", "status", "tap", "containment")),
        *("decnet-logship serve", "decnet-logship status", "decnet-updater serve"),
    ],
)
def test_the_wrong_user_is_told_what_to_do(command: str, machine: Machine) -> None:
    """Somebody who may read neither the configuration nor the data; with a configuration of his own, not the data."""
    machine.shell("touch /tmp/own.ini && chmod 0644 /tmp/own.ini")
    for config in ("/etc/decnet/decnet.ini", "/tmp/own.ini"):
        done = machine.attempt(
            "timeout", "20", *f"{BIN}/{command}".split(), user="nobody", env={"DECNET_CONFIG": config}
        )
        refusals = {ExitCode.CONFLICT, ExitCode.UNAVAILABLE, ExitCode.TRUST, ExitCode.CONFIG}  # its port may be taken
        assert done.code in refusals, (config, done)
        assert "error: " in done.out
        assert "what to do: " in done.out
        assert "Traceback" not in done.out


def _state(machine: Machine, unit: str) -> str:
    shown = machine.run("systemctl", "show", "--value", "-p", "ActiveState,SubState", unit)
    return " ".join(shown.split())


def _contained(machine: Machine) -> tuple[bool, list[tuple[str, int]]]:
    script = HOLD.replace(
        'asyncio.run(guard.hold("lo", pairs))', "print(asyncio.run(guard.status()).model_dump_json())"
    )
    status = json.loads(machine.run(f"{BIN}/python", "-c", script, user="decnet"))
    return status["enforcing"], [(each["name"], each["pairs"]) for each in status["interfaces"]]


def _held(machine: Machine) -> int:
    """How many descriptors systemd holds for the tap."""
    return int(machine.run("systemctl", "show", "--value", "-p", "NFileDescriptorStore", "decnet-tap"))


def _ring(machine: Machine) -> str:
    """The kernel's number of the tap's ring buffer (map type 27)."""
    pid = _pid(machine, "decnet-tap")
    found = machine.shell(f"grep -lP '^map_type:\\t27$' /proc/{pid}/fdinfo/* | xargs grep -hP '^map_id:'")
    return found.strip()


def _pid(machine: Machine, unit: str) -> str:
    return machine.run("systemctl", "show", "--value", "-p", "MainPID", unit).strip()
