"""Small wheels that look like real ones, for bundles of tests."""

from __future__ import annotations

import os
import platform
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import decnet_master

VERSION = decnet_master.__version__
MINOR = sys.version_info[1]
MACHINE = platform.machine()
COMPILED = f"cp3{MINOR}-cp3{MINOR}-manylinux_2_17_{MACHINE}"

OURS = {
    "decnet_core": ["compiled>=1"],
    "decnet_agent": [f"decnet-core=={VERSION}", "sometimes; python_version < '3'", "never; extra == 'x'"],
    "decnet_logship": [f"decnet-core=={VERSION}"],
    "decnet_updater": [f"decnet-core=={VERSION}", "Up.Dates"],
    "decnet_master": [f"decnet-core=={VERSION}", "master-only"],
}


def make_wheel(
    folder: Path, name: str, version: str, tags: str, needs: Sequence[str] = (), filling: bytes = b""
) -> Path:
    """Write a wheel with metadata and a file of this content."""
    path = folder / f"{name}-{version}-{tags}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        lines = "".join(f"Requires-Dist: {need}\n" for need in needs)
        wheel.writestr(f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\n{lines}\nText\n")
        wheel.writestr(f"{name}/data", filling)
    return path


def fill(folder: Path) -> Path:
    """Fill a folder with all that a bundle of this release needs, and things that it must not take."""
    folder.mkdir()
    for name, needs in OURS.items():
        make_wheel(folder, name, VERSION, "py3-none-any", needs)
    make_wheel(folder, "decnet_agent", "99.0", "py3-none-any")
    make_wheel(folder, "compiled", "1.10", COMPILED, filling=os.urandom(200_000))
    make_wheel(folder, "compiled", "1.9", COMPILED)
    for name in ("pip", "sometimes", "never", "up_dates", "master_only"):
        make_wheel(folder, name, "1", "py3-none-any")
    return folder
