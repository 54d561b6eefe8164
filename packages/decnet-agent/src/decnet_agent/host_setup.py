"""Make a host ready for a worker's daemons: `decnet-agent setup`, as root and as often as one likes.

    /usr/lib/sysusers.d/decnet.conf, /usr/lib/tmpfiles.d/decnet.conf     the user decnet and its folders
    /etc/decnet/decnet.ini                                               from the example, where there is none
    /etc/systemd/system/decnet-{agent,containment,logship,tap,updater}.service      rendered for where the programs lie

What it writes comes from the files of the source tree's systemd folder, which this package carries (`host_files`). A
unit is rewritten when it differs, for it is ours: an operator's changes belong into drop-ins (`systemctl edit`), which
are not touched. The configuration is the operator's: it is made once and never written again. Nothing is enabled or
started here.

Planning what to write is pure (`planned`); `install` compares it with the disk, writes what differs, and lets systemd's
own programs make user and folders.
"""

from __future__ import annotations

import grp
import os
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from decnet_core.errors import ConfigError, Unavailable
from decnet_core.pki.durable import PUBLIC_MODE, create_file, replace_file

UNITS = {
    "agent": "decnet-agent.service",
    "containment": "decnet-containment.service",
    "logship": "decnet-logship.service",
    "tap": "decnet-tap.service",
    "updater": "decnet-updater.service",
}
"""By the part of a worker that it runs; the agent is always among them."""

DOCUMENTED_PROGRAMS = Path("/opt/decnet/bin")
"""Where the units of the source tree start the programs from."""

CONFIGURATION = Path("/etc/decnet/decnet.ini")
CONFIGURATION_MODE = 0o640
SERVICE_GROUP = "decnet"
COMMAND_SECS = 60.0


@dataclass(frozen=True, slots=True)
class HostFile:
    """A file that the host should have."""

    path: Path
    content: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the host needs: where, and what became of it (`made`, `changed` or `was there`)."""

    what: str
    outcome: str


def planned(programs: Path, without: Collection[str]) -> list[HostFile]:
    """Return the files that are ours to write, whatever stands there.

    Args:
        programs: the folder that the units start the programs from; absolute.
        without: the parts of a worker that this one does not run.

    Raises:
        ConfigError: the folder cannot stand in a unit, or the agent itself is left out.
    """
    text = str(programs)
    if not programs.is_absolute() or not text.replace("/", "").replace("-", "").replace(".", "").isalnum():
        raise ConfigError(f"{programs} cannot stand in a unit", "Give an absolute path of letters, digits, - and dots.")
    if "agent" in without:
        raise ConfigError("A worker without its agent is none", "Leave out other parts.")
    files = [
        HostFile(Path("/usr/lib/sysusers.d/decnet.conf"), _carried("decnet.sysusers.conf")),
        HostFile(Path("/usr/lib/tmpfiles.d/decnet.conf"), _carried("decnet.tmpfiles.conf")),
    ]
    for part, unit in UNITS.items():
        if part not in without:
            rendered = _carried(unit).replace(f"{DOCUMENTED_PROGRAMS}/".encode(), f"{text}/".encode())
            files.append(HostFile(Path("/etc/systemd/system") / unit, rendered))
    return files


def install(programs: Path, without: Collection[str]) -> list[Step]:
    """Write what is missing or differs, and make user and folders; nothing is started.

    Raises:
        ConfigError: not root, a file cannot be written, or the arguments make no sense; see `planned`.
        Unavailable: systemd's programs are missing or fail.
    """
    if os.geteuid() != 0:
        raise ConfigError("Setting up a host takes root", "Run `decnet-agent setup` as root.")
    files = planned(programs, without)
    steps = [_write(file) for file in files]
    _run("systemd-sysusers")
    _run("systemd-tmpfiles", "--create", "decnet.conf")
    steps.append(_configure(CONFIGURATION))
    _run("systemctl", "daemon-reload")  # always: a run before this one may have ended just before it
    return steps


def _write(file: HostFile) -> Step:
    try:
        try:
            if file.path.read_bytes() == file.content:
                return Step(str(file.path), "was there")
            outcome = "changed"
        except FileNotFoundError:
            outcome = "made"
        file.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file.path, file.content, PUBLIC_MODE)
    except OSError as cause:
        raise _unwritable(file.path, cause) from cause
    return Step(str(file.path), outcome)


def _configure(path: Path) -> Step:
    """Make the configuration where there is none: every key as a comment."""
    try:
        made = create_file(path, _carried("decnet.ini.example"), CONFIGURATION_MODE)
        if path.stat().st_gid == 0:  # made now, or by a run that ended right here; the daemons could not read it
            os.chown(path, -1, grp.getgrnam(SERVICE_GROUP).gr_gid)
    except KeyError as cause:
        raise Unavailable(
            f"There is no group {SERVICE_GROUP}", "Run `systemd-sysusers` and read what it says."
        ) from cause
    except OSError as cause:
        raise _unwritable(path, cause) from cause
    return Step(str(path), "made" if made else "was there")


def _carried(name: str) -> bytes:
    return (resources.files("decnet_agent") / "host_files" / name).read_bytes()


def _run(*argv: str) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_SECS, check=False)
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise Unavailable(f"{argv[0]} does not run: {cause}", "A worker needs systemd.") from cause
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise Unavailable(f"{argv[0]} failed: {last}", f"Run `{' '.join(argv)}` to see all that it says.")


def _unwritable(path: Path, cause: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be written: {cause.strerror}", "Run `decnet-agent setup` as root.")
