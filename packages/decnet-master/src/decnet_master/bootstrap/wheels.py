"""Which wheels a worker is sent: their names, what they ask for, and which fit its Python, machine and C library.

Pure. A wheel's name says what it runs on; only what DECNET meets is understood: CPython of a released version on Linux
with glibc, pure Python, and the stable ABI. Anything else fits nobody.

Requirements are read by name alone: markers are left to pip on the worker, which evaluates them there. A requirement
with a marker is sent along when the bundle has it, one without has to be there; those of extras are not ours.

Source: the binary distribution format, core metadata, PEP 600 (manylinux) and PEP 425 (tags) of packaging.python.org.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated

from pydantic import Field

from decnet_core.errors import NotFound, RemoteProtocolError
from decnet_core.fleet import Contract

INSTALLER = "pip"
"""Sent along, because a bare host has none; it installs the others and itself is not installed."""

PROGRAMS = {"agent": "decnet-agent", "logship": "decnet-logship", "updater": "decnet-updater"}
"""The packages of a worker, by its part; tap and containment are parts of the agent's."""

MAX_WHEELS = 512
MAX_WHEEL_BYTES = 256 << 20
FILE_PATTERN = r"^[A-Za-z0-9_.]+-[A-Za-z0-9_.!+]+(-[0-9][A-Za-z0-9_.]*)?-[a-z0-9_.]+-[a-z0-9_.]+-[a-z0-9_.]+\.whl$"

_OLD_MANYLINUX = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_PLATFORM = re.compile(r"^(manylinux1|manylinux2010|manylinux2014|manylinux_(\d+)_(\d+))_([a-z0-9_]+)$")
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)[^;]*(?:;(.*))?$")


class Wheel(Contract):
    """One wheel of a bundle, as its manifest has it."""

    file: Annotated[str, Field(pattern=FILE_PATTERN, max_length=255)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=1, le=MAX_WHEEL_BYTES)]
    needs: tuple[str, ...] = ()
    """Projects that it cannot do without, on any worker."""
    may_need: tuple[str, ...] = ()
    """Projects that it needs on some."""

    @property
    def project(self) -> str:
        """Its project, normalised."""
        return normalised(self.file.split("-")[0])

    @property
    def version(self) -> str:
        """Its version, as its name has it."""
        return self.file.split("-")[1]


class Target(Contract):
    """What a worker runs: CPython `3.<minor>` on a machine with glibc."""

    minor: Annotated[int, Field(ge=0, le=99)]
    machine: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]
    glibc: tuple[Annotated[int, Field(ge=0, le=99)], Annotated[int, Field(ge=0, le=9999)]]

    def __str__(self) -> str:
        """Write it for an operator."""
        return f"Python 3.{self.minor} on {self.machine} with glibc {self.glibc[0]}.{self.glibc[1]}"


def fits(file: str, target: Target) -> bool:
    """Tell whether a wheel of this name installs on a target."""
    pythons, abis, platforms = (part.split(".") for part in file.removesuffix(".whl").rsplit("-", 3)[1:])
    fitting = [platform for platform in platforms if _platform_fits(platform, target)]
    # What names an ABI was compiled, for a platform: pip takes no such wheel for "any".
    return any(
        _python_fits(python, abi, target.minor) and (platform != "any" or abi == "none")
        for python in pythons
        for abi in abis
        for platform in fitting
    )


def select(wheels: Collection[Wheel], target: Target, parts: Collection[str]) -> list[Wheel]:
    """Choose the wheels that a worker of these parts is sent: the installer first, one of each project.

    Raises:
        NotFound: a project that is needed has no wheel that fits.
    """
    fitting: dict[str, Wheel] = {}
    for wheel in sorted(wheels, key=_preference):
        if fits(wheel.file, target):
            fitting[wheel.project] = wheel  # the last is the best
    chosen: dict[str, Wheel] = {}
    waiting = [INSTALLER, *(PROGRAMS[part] for part in parts)]
    while waiting:
        project = waiting.pop(0)
        if project in chosen:
            continue
        if project not in fitting:
            raise _missing(project, wheels, target)
        chosen[project] = fitting[project]
        waiting += chosen[project].needs
        waiting += [name for name in chosen[project].may_need if name in fitting]
    return list(chosen.values())


def reachable(wheels: Collection[Wheel]) -> list[Wheel]:
    """Return what a worker of any kind may be sent: nothing of the master's, whatever else lies beside it."""
    seen: set[str] = set()
    waiting = [INSTALLER, *PROGRAMS.values()]
    while waiting:
        project = waiting.pop()
        if project not in seen:
            seen.add(project)
            waiting += [
                name for wheel in wheels if wheel.project == project for name in (*wheel.needs, *wheel.may_need)
            ]
    return [wheel for wheel in wheels if wheel.project in seen]


def pythons_of(wheels: Collection[Wheel]) -> list[tuple[int, str]]:
    """Tell for which (minor version of Python 3, machine) there are wheels that were compiled for just that."""
    found = set()
    for wheel in wheels:
        pythons, abis, platforms = (part.split(".") for part in wheel.file.removesuffix(".whl").rsplit("-", 3)[1:])
        machines = {match[4] for platform in platforms if (match := _PLATFORM.match(platform))}
        exact = [python for python in pythons if python in abis]  # not the stable ABI: it names the oldest Python
        minors = {int(python[3:]) for python in exact if python.startswith("cp3") and python[3:].isdecimal()}
        found |= {(minor, machine) for minor in minors for machine in machines}
    return sorted(found)


def requirements(metadata: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the Requires-Dist of a wheel: what it needs anywhere, and what it needs on some hosts.

    Raises:
        RemoteProtocolError: a line is none.
    """
    needs, may_need = [], []
    for line in metadata:
        match = _REQUIREMENT.match(line.strip())
        if match is None:
            raise RemoteProtocolError(f"{line[:80]!r} is no requirement", "Build the wheel anew.")
        name, marker = normalised(match[1]), match[2]
        if marker is None:
            needs.append(name)
        elif "extra" not in marker:
            may_need.append(name)
    # An extra that one of ours asks for by name (uvicorn[standard]) is not followed: ours ask for none on workers.
    return tuple(needs), tuple(may_need)


def normalised(project: str) -> str:
    """Write a project's name as PEP 503 does."""
    return re.sub(r"[-_.]+", "-", project).lower()


def _platform_fits(platform: str, target: Target) -> bool:
    if platform in ("any", f"linux_{target.machine}"):
        return True
    match = _PLATFORM.match(platform)
    if match is None or match[4] != target.machine:
        return False
    return (_OLD_MANYLINUX.get(match[1]) or (int(match[2]), int(match[3]))) <= target.glibc


def _python_fits(python: str, abi: str, minor: int) -> bool:
    compiled = python.startswith("cp3") and python[3:].isdecimal()
    if abi == "none":
        own = {f"py3{version}" for version in range(minor + 1)} | {"py3", f"cp3{minor}"}
        return python in own
    if abi == "abi3":
        return compiled and int(python[3:]) <= minor
    return compiled and int(python[3:]) == minor and abi == f"cp3{minor}"


def _preference(wheel: Wheel) -> tuple[tuple[tuple[int, int, str], ...], bool, str]:
    """Order wheels so that a better one comes later: newer, then compiled, then for the newest C library."""
    version = tuple(_pieces(wheel.version))
    return version, not wheel.file.endswith("-any.whl"), wheel.file


def _pieces(version: str) -> Iterator[tuple[int, int, str]]:
    """Split a version so that 1.10 comes after 1.9, and 2.0rc1 before 2.0."""
    for piece in re.findall(r"\d+|[a-z]+", version.lower()):
        yield (1, int(piece), "") if piece.isdecimal() else ((2 if piece == "post" else -1), 0, piece)
    yield (0, 0, "")


def _missing(project: str, wheels: Collection[Wheel], target: Target) -> NotFound:
    there = ", ".join(f"3.{minor} on {machine}" for minor, machine in pythons_of(wheels)) or "none"
    return NotFound(
        f"The master's bundle has no {project} for {target}; its compiled wheels are for Python {there}",
        "Add wheels for this worker: `decnet-master bundle build --wheels DIR` on the master.",
    )
