"""What a killed engine leaves behind, and how its slot's next owner clears it away.

    dockerd ── containerd ── containerd-shim ── a container's init       any of them may have outlived the others
    mounts below the state folder (namespaces) and the data folder (overlays)

Everything is found by the slot's own folder and name in a process's command line or a mount's path, never by a number
that was written down before: process ids are reused, and a stale one would hit a stranger. The order is from the top:
a daemon that still answers cleans up by itself.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from pathlib import Path

_ASK_SECS = 20.0  # dockerd itself waits up to 15 s for its containers
_KILL_SECS = 5.0
_UMOUNT_SECS = 30.0


def clear(state: Path, data: Path, namespace: str) -> None:
    """Clear what an engine left; its slot must be ours, and its daemon not started yet.

    Args:
        state: its folder of sockets and process state, emptied of both.
        data: its storage, kept, but for its networks and what is mounted in it.
        namespace: its name within containerd.
    """
    for pid in _processes(f"--data-root={data}"):
        _end(pid, ask=True)
    for pid in _processes(f"{state}/exec/containerd/containerd.toml"):
        _end(pid, ask=True)
    for pid in _processes(namespace):
        if _command(pid)[0].endswith("containerd-shim-runc-v2"):
            # the children first: they would be nobody's once the shim is gone
            for child in _children(pid):
                _end(child, ask=False)
            _end(pid, ask=False)
    for mount in sorted(_mounts(state, data), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", mount], capture_output=True, timeout=_UMOUNT_SECS, check=False)
    shutil.rmtree(state / "exec", ignore_errors=True)
    # the macvlan driver keeps a network whose creation or removal was cut short, and then refuses its parent for ever
    shutil.rmtree(data / "network", ignore_errors=True)
    for name in ("dockerd.pid", "docker.sock"):
        (state / name).unlink(missing_ok=True)


def end_all(argument: str, *, number: signal.Signals) -> None:
    """End every process that has the argument in its command line: by the signal, then by force."""
    for pid in _processes(argument):
        _end(pid, ask=True, number=number)


def _processes(argument: str) -> list[int]:
    """Return the processes that have the argument in their command lines."""
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in numbers if pid != os.getpid() and argument in _command(pid)]


def _command(pid: int) -> list[str]:
    """Return a process's command line: [""] for one that is gone, a zombie or a kernel thread."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _end(pid: int, *, ask: bool, number: signal.Signals = signal.SIGTERM) -> None:
    """End a process and wait until it has ended; ask first, or kill at once."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        for each, patience_secs in [(number, _ASK_SECS)] * ask + [(signal.SIGKILL, _KILL_SECS)]:
            signal.pidfd_send_signal(descriptor, each)
            if select.select([descriptor], [], [], patience_secs)[0]:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _mounts(*folders: Path) -> list[str]:
    """Return what is mounted at or below the folders."""
    targets = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [target for target in targets if any(Path(target).is_relative_to(folder) for folder in folders)]
