"""What benches ask of the machine: what a process used, room for descriptors, a folder that does not stay."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

from decnet_core.errors import ConfigError

_TICKS_PER_SEC = os.sysconf("SC_CLK_TCK")


def cpu_secs(pid: int) -> float:
    """Return a process's processor time so far, its threads' included (utime and stime of proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SEC


def family_cpu_secs(pid: int) -> float:
    """Return the processor time so far of a process, of its children, and of those that it has reaped."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = stat.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        fields = rest.split()
        if int(number.split()[0]) == pid:
            total += sum(map(int, fields[11:15])) / _TICKS_PER_SEC
        elif int(fields[1]) == pid:
            total += sum(map(int, fields[11:13])) / _TICKS_PER_SEC
    return total


def peak_mib(pid: int) -> float:
    """Return the most that a process ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(kib / 1024, 1)


def allow_descriptors(count: int) -> None:
    """Raise the soft limit of open files for this process and its children.

    Raises:
        ConfigError: the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise ConfigError(
                f"{count} open files are needed and the hard limit is {hard}",
                f"Run as root, or under `prlimit --nofile={count}:{count}`.",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def removed_at_the_end(folder: Path) -> subprocess.Popen[bytes]:
    """Start a watcher that removes the folder once this process's end of a pipe is gone, however it went.

    It tries again while daemons, which the kernel kills at the same moment, still write.
    """
    script = 'cat; until rm -rf -- "$0"; do sleep 0.1; done'
    return subprocess.Popen(["/bin/sh", "-c", script, str(folder)], stdin=subprocess.PIPE, start_new_session=True)
