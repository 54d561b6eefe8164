"""decnet.ini.example names every key of every program, with its default, and nothing else."""

from __future__ import annotations

import os
import re

import pytest

from decnet_agent.settings import AgentSettings
from decnet_core.settings import SECTIONS, RoleSettings
from decnet_logship.settings import LogshipSettings
from decnet_master.settings import MasterSettings
from decnet_updater.settings import UpdaterSettings
from tests.packaging.wheels import ROOT

ROLES = (MasterSettings, AgentSettings, UpdaterSettings, LogshipSettings)
TEXT = (ROOT / "decnet.ini.example").read_text(encoding="utf-8")
KEY = re.compile(r"^;([a-z-]+) =(?: (.*))?$", re.MULTILINE)


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Load a role's settings from a text."""
    for name in [name for name in os.environ if name.startswith("DECNET_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "decnet.ini"
    monkeypatch.setenv("DECNET_CONFIG", str(path))

    def load(role, text):
        path.write_text(text, encoding="utf-8")
        return role.load()

    return load


def sections():
    """Return each section's keys in the order of the example, with the text of their values."""
    parts = re.split(r"^\[([a-z]+)\]$", TEXT, flags=re.MULTILINE)[1:]
    return {
        name: {found[1]: found[2] or "" for found in KEY.finditer(part)}
        for name, part in zip(parts[::2], parts[1::2], strict=True)
    }


def fields(role):
    own = role.model_fields.keys() - (RoleSettings.model_fields.keys() if role is not RoleSettings else set())
    return {name.replace("_", "-") for name in own}


def test_every_section_stands_in_it():
    assert tuple(sections()) == SECTIONS


@pytest.mark.parametrize("role", [RoleSettings, *ROLES], ids=lambda role: role.__name__)
def test_every_key_stands_in_its_section(role):
    section = "decnet" if role is RoleSettings else role.section
    assert set(sections()[section]) == fields(role)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.__name__)
def test_as_it_is_it_changes_nothing(role, read):
    assert read(role, TEXT) == read(role, "")


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.__name__)
def test_the_values_are_the_defaults(role, read):
    everything = KEY.sub(lambda found: found[0].removeprefix(";"), TEXT)
    assert everything.count("\n;") == 0
    assert read(role, everything) == read(role, "")


def test_every_key_has_a_comment_above_it():
    lines = TEXT.splitlines()
    for number, line in enumerate(lines):
        if line.startswith(";"):
            assert KEY.fullmatch(line), line
            assert lines[number - 1].startswith("# "), line
    assert all(len(line) <= 120 for line in lines)
