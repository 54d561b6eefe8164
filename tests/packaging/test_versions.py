"""One number for all five packages, and the script that changes it. uv itself does not compare them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.packaging.wheels import PACKAGES, PROGRAMS, ROOT, module_of, run_uv, uv


def _project(root, package=None):
    path = root / "packages" / package / "pyproject.toml" if package else root / "pyproject.toml"
    return tomllib.loads(path.read_text())["project"]


def _versions(root):
    """Return every place's version of ours."""
    found = {"workspace": _project(root)["version"]}
    for package in PACKAGES:
        project = _project(root, package)
        found[package] = project["version"]
        source = (root / "packages" / package / "src" / module_of(package) / "__init__.py").read_text()
        found[f"{package} __version__"] = re.search(r'^__version__ = "(.*)"$', source, re.MULTILINE)[1]
        for line in map(Requirement, project["dependencies"]):
            if line.name in PACKAGES:
                operator, _, version = str(line.specifier).rpartition("=")
                found[f"{package} pins {line.name}"] = version if operator == "=" else str(line.specifier)
    for entry in tomllib.loads((root / "uv.lock").read_text())["package"]:
        if entry["name"].startswith("decnet-"):
            found[f"uv.lock {entry['name']}"] = entry["version"]
    return found


def test_all_versions_agree():
    found = _versions(ROOT)
    assert len(set(found.values())) == 1, found
    assert {f"{package} pins decnet-core" for package in PROGRAMS} <= found.keys()


def test_the_five_are_all_there_are():
    assert sorted(path.name for path in (ROOT / "packages").iterdir() if path.is_dir()) == sorted(PACKAGES)


@pytest.mark.slow
def test_the_script_bumps_every_place(tree, tmp_path):
    copy = _copied(tree, tmp_path)
    done = _bump(copy, "7.8.9rc1")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(_versions(copy).values()) == {"7.8.9rc1"}
    run_uv("lock", "--check", cwd=copy)
    assert _bump(copy, "7.8.9").returncode == 0
    assert set(_versions(copy).values()) == {"7.8.9"}


@pytest.mark.slow
def test_the_script_changes_nothing_where_a_file_is_odd(tree, tmp_path):
    copy = _copied(tree, tmp_path)
    odd = copy / "packages" / "decnet-updater" / "src" / "decnet_updater" / "__init__.py"
    odd.write_text('"""No version."""\n')
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    done = _bump(copy, "7.8.9")
    assert done.returncode == 1
    assert str(odd) in done.stderr
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("version", ["", "1", "1.2", "v1.2.3", "1.2.3-1", "1.2.3+local", "1.2.3\n", "../1.2.3"])
def test_the_script_refuses_what_is_no_version(tmp_path, version):
    assert _bump(tmp_path, version).returncode == 2


def _copied(tree, tmp_path):
    import shutil

    return Path(shutil.copytree(tree, tmp_path / "copy"))


def _bump(root, version):
    path = os.pathsep.join([str(Path(uv()).parent), os.environ["PATH"]]) if root.joinpath("uv.lock").exists() else None
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "bump-version", "--root", root, "--", version],
        env={**os.environ, **({"PATH": path} if path else {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
