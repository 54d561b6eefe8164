"""The walls between the packages and around their libraries.

import-linter keeps those between modules; what is below also sees imports inside functions, where a heavy library is
imported late on purpose.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.sources import PATHS, imports, modules
from tests.packaging.wheels import ROOT

ENGINE_ROOM = ("decnet_agent.engine",)

# Library -> the modules, or packages with all that is in them, that may import it.
ROOMS = {
    "docker": ENGINE_ROOM,
    "sqlalchemy": ("decnet_master.store",),
    "alembic": ("decnet_master.store",),
    "asyncpg": ("decnet_master.store",),
    "aiosqlite": ("decnet_master.store",),
    "httpx": (
        "decnet_agent.master_client",
        "decnet_master.cli.connection",
        "decnet_master.cli.probes",
    ),
    "h11": ("decnet_master.swarmctl.exchange",),
    "argon2": ("decnet_master.passwords",),
    "scapy": (),
    "requests": ENGINE_ROOM,  # what the docker library raises when the engine does not answer
    "urllib3": (),
}


def test_import_linter_finds_every_contract_kept():
    command = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [command, "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("library", ROOMS)
def test_a_library_stays_in_its_rooms(library):
    users = {name for name, imported in imports().items() if library in imported}
    outside = {name for name in users if not any(f"{name}.".startswith(f"{room}.") for room in ROOMS[library])}
    assert outside == set()


@pytest.mark.parametrize("package", ["decnet_agent", "decnet_updater", "decnet_logship"])
def test_a_worker_never_names_the_masters_modules(package):
    for name, nodes in modules().items():
        if name.startswith(package):
            strings = {node.value for node in nodes if isinstance(node, ast.Constant)}
            assert "decnet_master" not in imports()[name] | strings, name


def test_a_module_is_no_longer_than_five_hundred_lines():
    long = {name: len(path.read_text().splitlines()) for name, path in PATHS.items()}
    assert {name: lines for name, lines in long.items() if lines > 500} == {}


def test_nobody_names_a_module_after_nothing():
    empty_words = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
    assert {name for name in PATHS if empty_words.intersection(name.rpartition(".")[2].split("_"))} == set()
