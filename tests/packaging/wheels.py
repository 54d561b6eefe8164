"""Build the wheels, or take those that are given, and install them into environments of their own.

`DECNET_WHEELS_DIR` names a folder with the five wheels and source archives: the very files that are to be published
are then what the tests see. Otherwise they are built from a copy of the tree, which nobody edits meanwhile.

Dependencies come as uv.lock has them. Our own wheels are named by path: neither uv's cache nor an index can put
another build of the same version in their place.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from pathlib import Path

from decnet_core.errors import Unavailable

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("decnet-core", "decnet-master", "decnet-agent", "decnet-updater", "decnet-logship")
PROGRAMS = PACKAGES[1:]
WORKER = ("decnet-agent", "decnet-logship", "decnet-updater")
BUILD_SECS = 120
INSTALL_SECS = 120
"""Cold: thirty wheels from an index. With uv's cache it takes under a second."""


def module_of(package: str) -> str:
    """Return a package's import name."""
    return package.replace("-", "_")


@functools.cache
def uv() -> str:
    """Find uv: on the PATH, beside this Python, or where scripts/setup keeps its own."""
    cache = os.environ.get("DECNET_LAB_CACHE") or "/var/cache/decnet-lab"
    user_cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folders = [Path(sys.executable).parent, Path(cache) / "uv" / "bin", Path(user_cache) / "decnet-lab" / "uv" / "bin"]
    found = shutil.which("uv") or shutil.which("uv", path=os.pathsep.join(map(str, folders)))
    if found is None:
        raise Unavailable("uv is not installed", "Run `scripts/setup python`.")
    return found


def run_uv(*arguments: str | Path, cwd: Path = ROOT, timeout_secs: float = BUILD_SECS) -> str:
    """Run uv and return its standard output; what it says on failure is the test's failure."""
    done = subprocess.run(
        [uv(), *map(str, arguments)],
        cwd=cwd,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=timeout_secs,
        check=False,
    )
    assert done.returncode == 0, f"uv {' '.join(map(str, arguments))}\n{done.stderr}"
    return done.stdout


def clean_environment() -> dict[str, str]:
    """Return our environment without what would let the workspace shine through."""
    hidden = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON")
    return {name: value for name, value in os.environ.items() if name not in hidden and not name.startswith("DECNET_")}


def copy_tree(target: Path) -> Path:
    """Copy what a build needs of the tree."""
    left_out = shutil.ignore_patterns(".venv", "dist", "node_modules")
    shutil.copytree(ROOT / "packages", target / "packages", ignore=left_out)
    for name in ("pyproject.toml", "uv.lock", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, target / name)
    return target


def build(tree: Path, target: Path) -> Path:
    """Build all wheels and source archives of a tree."""
    run_uv("build", "--all-packages", "--quiet", "--out-dir", target, cwd=tree)
    return target


@dataclass
class Wheels:
    """A folder with the five wheels, and the environments made from them."""

    folder: Path
    scratch: Path
    _environments: dict[tuple[str, ...], Environment] = field(default_factory=dict)

    def path(self, package: str) -> Path:
        """Return the one wheel of a package."""
        (found,) = self.folder.glob(f"{module_of(package)}-*.whl")
        return found

    def names(self, package: str) -> list[str]:
        """Return what is in a wheel."""
        with zipfile.ZipFile(self.path(package)) as wheel:
            return wheel.namelist()

    def metadata(self, package: str) -> Message:
        """Return a wheel's core metadata."""
        with zipfile.ZipFile(self.path(package)) as wheel:
            (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
            return message_from_bytes(wheel.read(name))

    @functools.cached_property
    def version(self) -> str:
        """Return the version, which all five share."""
        (version,) = {self.metadata(package)["Version"] for package in PACKAGES}
        return str(version)

    def environment(self, *packages: str) -> Environment:
        """Return an environment with these packages and what they bring, made once."""
        key = tuple(sorted(packages))
        if key not in self._environments:
            self._environments[key] = self._install(key)
        return self._environments[key]

    def _install(self, packages: tuple[str, ...]) -> Environment:
        folder = self.scratch / "-".join(packages)
        constraints = self.scratch / "constraints.txt"
        if not constraints.exists():
            export = ("export", "--all-packages", "--no-emit-workspace", "--no-dev", "--no-hashes", "--locked", "-q")
            constraints.write_text(run_uv(*export))
        run_uv("venv", "--quiet", "--python", sys.executable, folder)
        wanted = dict.fromkeys(("decnet-core", *packages))
        run_uv(
            *("pip", "install", "--quiet", "--python", folder, "--constraint", constraints),
            *map(self.path, wanted),
            timeout_secs=INSTALL_SECS,
        )
        return Environment(folder)


@dataclass(frozen=True)
class Environment:
    """A Python environment of its own."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, *argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, away from the tree."""
        program, *arguments = map(str, argv)
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=self.folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    def distributions(self) -> set[str]:
        """Return the names of all that is installed."""
        listed = json.loads(run_uv("pip", "list", "--quiet", "--format", "json", "--python", self.folder))
        return {entry["name"] for entry in listed}

    def modules(self, package: str) -> Iterator[str]:
        """Return the names of all modules of an installed package."""
        (source,) = self.folder.glob(f"lib/python3*/site-packages/{package}")
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
