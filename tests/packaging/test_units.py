"""The units in systemd/: they say what systemd understands, and they give away as little as the programs need."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from decnet_core.errors import ExitCode, IdentityNotBegun
from decnet_core.settings import RoleSettings
from tests.packaging.wheels import PROGRAMS, ROOT

FOLDER = ROOT / "systemd"
BIN = "/opt/decnet/bin/"
KEYS = "/var/lib/decnet/identities"
EXPOSURE = {
    "decnet-agent": 18,
    "decnet-containment": 16,
    "decnet-logship": 15,
    "decnet-master": 15,
    "decnet-tap": 23,
    "decnet-updater": 15,
}
"""Tenths of what `systemd-analyze security` may say: 0 is shut in, 100 is root as it is without a unit."""

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(
    ANALYZE is None and os.environ.get("CI") != "true", reason="missing: systemd-analyze. Install systemd."
)


class Unit(configparser.RawConfigParser):
    def __init__(self, name: str) -> None:
        super().__init__(strict=False, interpolation=None, delimiters=("=",))
        self.read_string((FOLDER / f"{name}.service").read_text())

    def optionxform(self, optionstr: str) -> str:
        return optionstr

    def get_service(self, key: str) -> str:
        return self["Service"].get(key, "")


def test_there_is_a_limit_for_every_unit():
    assert sorted(path.stem for path in FOLDER.glob("*.service")) == sorted(EXPOSURE)


@pytest.fixture
def installed(tmp_path):
    """The units with programs that exist, as systemd wants them before it looks any further."""
    for program in PROGRAMS:
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    for path in FOLDER.glob("*.service"):
        (tmp_path / path.name).write_text(path.read_text().replace(BIN, f"{tmp_path}/bin/"))
    return tmp_path


def analyze(*arguments):
    assert ANALYZE is not None, "missing: systemd-analyze. Install systemd."
    command = [ANALYZE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@needs_systemd
def test_systemd_understands_every_line(installed):
    done = analyze("verify", *sorted(installed.glob("*.service")))
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "decnet" in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd
@pytest.mark.parametrize("name", EXPOSURE)
def test_a_unit_is_no_more_exposed_than_it_must_be(installed, name):
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE[name]}", installed / f"{name}.service")
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", EXPOSURE)
def test_a_unit_starts_a_program_of_ours_and_knows_its_exit_codes(name):
    unit = Unit(name)
    program, *_ = unit.get_service("ExecStart").removeprefix(BIN).split()
    assert program in PROGRAMS
    codes = {int(code) for code in unit.get_service("RestartPreventExitStatus").split()}
    assert codes == {ExitCode.USAGE, ExitCode.TRUST, ExitCode.CONFIG}
    assert unit.get_service("Type") == "notify"
    assert int(unit.get_service("WatchdogSec")) > 0
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"


@pytest.mark.parametrize("name", EXPOSURE)
def test_a_unit_writes_where_the_settings_say(name):
    fields = RoleSettings.model_fields
    known = {str(fields[f"{kind}_directory"].default) for kind in ("data", "log", "run")}
    assert set(Unit(name).get_service("ReadWritePaths").split()) <= known
    created = {line.split()[1] for line in (FOLDER / "decnet.tmpfiles.conf").read_text().splitlines() if line[0] == "d"}
    assert known | {"/etc/decnet", KEYS} == created


@pytest.mark.parametrize("name", EXPOSURE)
def test_a_unit_hides_no_folder_of_ours_that_is_missing(name):
    """Behind a `-` systemd would leave out the protection of a folder that is made later."""
    keys = ("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths")
    paths = [path for key in keys for path in Unit(name).get_service(key).split()]
    assert not [path for path in paths if path.startswith("-") and "decnet" in path]


@pytest.mark.parametrize("name", sorted({*EXPOSURE} - {"decnet-containment", "decnet-tap"}))
def test_a_unit_that_has_a_certificate_waits_for_the_clock(name):
    unit = Unit(name)["Unit"]
    assert "time-sync.target" in unit["Wants"].split()
    assert "time-sync.target" in unit["After"].split()


def test_a_clock_that_is_behind_keeps_no_unit_down():
    for name in EXPOSURE:
        codes = {int(code) for code in Unit(name).get_service("RestartPreventExitStatus").split()}
        assert IdentityNotBegun.exit_code not in codes


def test_the_folder_of_the_keys_is_the_services_alone():
    assert f"d {KEYS} 0700 decnet decnet -" in (FOLDER / "decnet.tmpfiles.conf").read_text().splitlines()


def test_only_the_tap_is_root_and_it_has_no_network():
    users = {name: Unit(name).get_service("User") for name in EXPOSURE}
    assert {name for name, user in users.items() if user != "decnet"} == {"decnet-tap"}
    tap = Unit("decnet-tap")
    assert tap.get_service("PrivateNetwork") == "yes"
    assert tap.get_service("RestrictAddressFamilies") == "AF_UNIX"
    assert "docker.sock" in tap.get_service("InaccessiblePaths")
    capable = {name for name in EXPOSURE if Unit(name).get_service("CapabilityBoundingSet")}
    assert capable == {"decnet-containment", "decnet-tap"}


def test_what_contains_deckies_has_two_capabilities_and_speaks_no_ip():
    unit = Unit("decnet-containment")
    for key in ("CapabilityBoundingSet", "AmbientCapabilities"):
        assert unit.get_service(key) == "CAP_NET_ADMIN CAP_NET_RAW"
    assert unit.get_service("RestrictAddressFamilies") == "AF_UNIX AF_NETLINK AF_PACKET"
    assert {"-/run/docker.sock", KEYS} <= set(unit.get_service("InaccessiblePaths").split())


def test_no_decky_is_brought_back_at_boot_before_it_is_contained():
    assert "docker.service" in Unit("decnet-containment")["Unit"]["Before"].split()
    assert Unit("decnet-containment").get_service("Type") == "notify"


def test_only_the_agent_may_use_the_engine():
    assert [name for name in EXPOSURE if "docker" in Unit(name).get_service("SupplementaryGroups")] == ["decnet-agent"]


def test_on_a_worker_only_the_agent_may_write_the_keys():
    for name in ("decnet-logship", "decnet-updater"):
        assert Unit(name).get_service("ReadOnlyPaths") == KEYS
    assert not Unit("decnet-agent").get_service("ReadOnlyPaths")
    assert KEYS in Unit("decnet-tap").get_service("InaccessiblePaths").split()


def test_the_user_of_the_units_is_made():
    assert re.search(r"^u decnet ", (FOLDER / "decnet.sysusers.conf").read_text(), re.MULTILINE)


PROBE = """
import json
from decnet_agent.tap.capabilities import probe_kernel
print(json.dumps({name: works for name, works, _ in probe_kernel()}))
"""


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give capabilities away")
def test_the_taps_capabilities_are_enough():
    def works_with(*names: str) -> dict[str, bool]:
        bounding = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in names)])
        command = ["setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={bounding}", sys.executable]
        done = subprocess.run([*command, "-c", PROBE], capture_output=True, text=True, timeout=60, check=True)
        return json.loads(done.stdout)

    unbounded = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60, check=True)
    given = Unit("decnet-tap").get_service("CapabilityBoundingSet").split()
    assert works_with(*given) == json.loads(unbounded.stdout)
    if json.loads(unbounded.stdout)["fanotify"]:
        assert works_with(*(name for name in given if name != "CAP_SYS_ADMIN"))["fanotify"] is False
