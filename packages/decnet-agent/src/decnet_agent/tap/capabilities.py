"""Find out what this host lets the tap do: the facts behind `decnet-agent doctor`.

Every facility is tried for real and taken back at once; nothing is guessed from versions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from decnet_agent.tap import btf, kernel, programs
from decnet_agent.tap.fanotify import Fanotify
from decnet_agent.tap.holdings import Holdings
from decnet_agent.tap.probes import KernelProbes, kernel_types
from decnet_agent.tap.terminal_probes import TerminalProbes
from decnet_core.errors import DecnetError

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # include/linux/proc_ns.h: PROC_PID_INIT_INO


def probe_kernel() -> list[tuple[str, bool, str]]:
    """Try what the tap needs.

    Returns:
        Facility, whether it can be used, and why not (or what it gives).
    """
    return [_tried(name, gives, attempt) for name, gives, attempt in _FACILITIES]


def _tried(name: str, gives: str, attempt: Callable[[], None]) -> tuple[str, bool, str]:
    try:
        attempt()
    except DecnetError as cause:
        return name, False, f"{cause.message}. {cause.advice}".rstrip()
    return name, True, gives


def _privilege() -> None:
    if os.geteuid() != 0:
        raise DecnetError("The tap does not run as root", "Run it by its own unit, or doctor with sudo.")


def _pid_namespace() -> None:
    if Path("/proc/self/ns/pid").stat().st_ino != _INITIAL_PID_NAMESPACE:
        raise DecnetError(
            "This is not the host's own process namespace", "Run the tap on the host, not in a container."
        )


def _types() -> None:
    btf.field_offsets(kernel_types(), programs.FIELDS)


def _probes() -> None:
    KernelProbes().close()


def _uprobes() -> None:
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    counter, deckies, ring = kernel.create_counter(), kernel.create_set(1), kernel.create_ring(1 << 16)
    try:
        code = programs.prompted(
            programs.Maps(ring, deckies, counter), btf.field_offsets(kernel_types(), programs.FIELDS)
        )
        program = kernel.load_uprobe_program(code)
        # No process runs the header's bytes, so this attachment never fires.
        for descriptor in (kernel.attach_uprobe(program, f"/proc/self/fd/{fd}", 0, cookie=0), program):
            os.close(descriptor)
    finally:
        for descriptor in (fd, counter, deckies, ring):
            os.close(descriptor)


def _terminals() -> None:
    counter, deckies = kernel.create_counter(), kernel.create_set(1)
    try:
        TerminalProbes(Holdings(), programs.Maps(-1, deckies, counter), continued=False).close()
    finally:
        os.close(counter)
        os.close(deckies)


def _fanotify() -> None:
    Fanotify().close()


_FACILITIES: tuple[tuple[str, str, Callable[[], None]], ...] = (
    ("root", "the tap may ask the kernel", _privilege),
    ("host-pid-namespace", "pids mean the same to the tap and the kernel", _pid_namespace),
    ("kernel-types", "fields of the kernel are found by name (BTF)", _types),
    ("tracepoints", "every program that is executed in a decky", _probes),
    ("uprobes", "lines typed at a prompt and passwords tried", _uprobes),
    ("terminals", "what terminals show and what is typed, as recordings", _terminals),
    ("fanotify", "every file that is written in a decky", _fanotify),
)
