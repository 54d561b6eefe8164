"""What `decnet-agent setup` would write, and that it is what the source tree's own files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from decnet_agent import host_setup
from decnet_core.errors import ConfigError
from tests.packaging.wheels import ROOT

PROGRAMS = Path("/opt/decnet/current/bin")
BY_NAME = {"decnet.sysusers.conf": "sysusers.d/decnet.conf", "decnet.tmpfiles.conf": "tmpfiles.d/decnet.conf"}


def test_the_units_are_those_of_the_tree_for_where_the_programs_are():
    written = {str(file.path): file.content.decode() for file in host_setup.planned(PROGRAMS, ())}
    for unit in host_setup.UNITS.values():
        source = (ROOT / "systemd" / unit).read_text()
        assert "ExecStart=/opt/decnet/bin/" in source
        rendered = written.pop(f"/etc/systemd/system/{unit}")
        assert rendered == source.replace("/opt/decnet/bin/", "/opt/decnet/current/bin/")
    assert written == {f"/usr/lib/{place}": (ROOT / "systemd" / name).read_text() for name, place in BY_NAME.items()}


def test_every_unit_of_a_worker_is_carried():
    ours = {path.name for path in (ROOT / "systemd").glob("*.service")} - {"decnet-master.service"}
    assert set(host_setup.UNITS.values()) == ours


@pytest.mark.parametrize("part", ["logship", "tap", "updater"])
def test_a_part_that_is_left_out_gets_no_unit(part):
    units = {file.path.name for file in host_setup.planned(PROGRAMS, {part}) if file.path.suffix == ".service"}
    assert units == set(host_setup.UNITS.values()) - {host_setup.UNITS[part]}


@pytest.mark.parametrize("programs", ["bin", "/opt/a b", "/opt/x\nExecStart=/bin/sh", "/opt/%h"])
def test_a_path_that_would_mean_something_else_in_a_unit_is_refused(programs):
    with pytest.raises(ConfigError, match="cannot stand in a unit"):
        host_setup.planned(Path(programs), ())


def test_a_worker_is_not_set_up_without_its_agent():
    with pytest.raises(ConfigError, match="without its agent"):
        host_setup.planned(PROGRAMS, {"agent"})
