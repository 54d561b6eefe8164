"""All that the kernel watches for us, in one place: tracepoints for every decky, uprobes for the files of each.

A uprobe sticks to an inode. Deckies made of one image share it, so each decky has its own attachment, whose cookie is
the decky's namespace; an attacker who replaces a probed file gets another inode, which `refresh` notices and probes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from decnet_agent.tap import btf, elf, kernel, programs, rooted
from decnet_agent.tap.quiet import PROLOGUE_BYTES, quiet_distance
from decnet_agent.tap.ring import Ring
from decnet_core.errors import DecnetError, NotFound, Unavailable

RING_BYTES = 4 << 20
"""4,000 command lines of usual length that nobody read yet: seconds of a machine that only starts programs."""
MAX_NAMESPACES = 4096

KERNEL_TYPES = Path("/sys/kernel/btf/vmlinux")

_LIBRARIES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Place:
    """A function to probe: the places where its file may lie, its name, and what to attach."""

    paths: tuple[str, ...]
    function: str
    program: str
    variable: str | None = None
    """What the program reads, by its distance from the probed place."""


_BASH = ("/usr/bin/bash", "/bin/bash")
_PAM = tuple(f"{folder}/libpam.so.0" for folder in _LIBRARIES)
_PLACES = (
    _Place(_BASH, "rl_set_prompt", "prompted"),
    _Place(_BASH, "rl_clear_signals", "entered", variable="rl_line_buffer"),
    _Place(_PAM, "pam_start", "pam_user"),
    _Place(_PAM, "pam_set_item", "pam_item"),
)

_FileKey = tuple[str, int, int, int]


@dataclass(slots=True)
class _Attachment:
    key: _FileKey
    descriptors: list[int] = field(default_factory=list)


class KernelProbes:
    """The programs in the kernel and the ring that they write to; `fd` becomes readable when there is a record.

    Raises:
        Unavailable: this kernel or its policy cannot do it.
    """

    def __init__(self) -> None:
        offsets = btf.field_offsets(kernel_types(), programs.FIELDS)
        registers = programs.REGISTERS[kernel.machine()]
        self._maps = programs.Maps(
            kernel.create_ring(RING_BYTES), kernel.create_set(MAX_NAMESPACES), kernel.create_counter()
        )
        self._ring = Ring(self._maps.ring, RING_BYTES)
        self._lost = 0
        self._held: list[int] = []
        for name, program in (
            ("sched_process_fork", programs.forked),
            ("sched_process_exec", programs.executed),
            ("sched_process_exit", programs.exited),
        ):
            self._held += kernel.attach_tracepoint(name, program(self._maps, offsets))
        self._programs = {
            "prompted": kernel.load_uprobe_program(programs.prompted(self._maps, offsets)),
            "entered": kernel.load_uprobe_program(programs.entered(self._maps, offsets, registers)),
            "pam_user": kernel.load_uprobe_program(programs.pam_user(self._maps, offsets, registers)),
            "pam_item": kernel.load_uprobe_program(programs.pam_item(self._maps, offsets, registers)),
        }
        self._attached: dict[tuple[int, int], _Attachment] = {}

    @property
    def fd(self) -> int:
        """What to wait on."""
        return self._ring.fd

    def read(self, limit: int) -> Iterator[bytes]:
        """Give up to `limit` records."""
        return self._ring.read(limit)

    def lost(self) -> int:
        """Tell how many records found no room since the last call."""
        before, self._lost = self._lost, kernel.counter_value(self._maps.lost)
        return self._lost - before

    def watch(self, namespace: int) -> None:
        """Begin to tell of a decky's processes."""
        kernel.set_add(self._maps.deckies, namespace)

    def forget(self, namespace: int) -> None:
        """Stop telling of a decky."""
        kernel.set_remove(self._maps.deckies, namespace)
        for key in [key for key in self._attached if key[0] == namespace]:
            _close_all(self._attached.pop(key).descriptors)

    def refresh(self, namespace: int, pid1: int, decky: str) -> None:
        """Set the uprobes of a decky, anew where its files changed; what cannot be probed is logged once."""
        for index, place in enumerate(_PLACES):
            try:
                fd, path = _open_first(pid1, place.paths)
            except DecnetError:
                fd, path = -1, ""
            try:
                self._attach(namespace, index, decky, fd=fd, path=path)
            finally:
                if fd >= 0:
                    os.close(fd)

    def close(self) -> None:
        """Take everything out of the kernel."""
        for attachment in self._attached.values():
            _close_all(attachment.descriptors)
        _close_all([*self._held, *self._programs.values(), self._maps.deckies, self._maps.lost])
        self._ring.close()

    def _attach(self, namespace: int, index: int, decky: str, *, fd: int, path: str) -> None:
        place, key = _PLACES[index], _file_key(fd, path)
        before = self._attached.get((namespace, index))
        if before is not None and before.key == key:
            return
        attachment = self._attached[namespace, index] = _Attachment(key)
        if before is not None:
            log.warning("tap.probed_file_changed", decky=decky, file=place.paths[0])
            _close_all(before.descriptors)
        try:
            function = elf.find_function(fd, place.function, code_bytes=PROLOGUE_BYTES)
            skip = _quiet(function, place)
            address = elf.variable_address(fd, place.variable) if place.variable else function.address + skip
            distance = address - function.address - skip
            attachment.descriptors += kernel.attach_uprobe(
                self._programs[place.program],
                f"/proc/self/fd/{fd}",
                function.offset + skip,
                cookie=(distance & 0xFFFFFFFF) << 32 | namespace,
            )
        except DecnetError as cause:
            log.warning("tap.probe_failed", decky=decky, file=place.paths[0], reason=cause.message)


def kernel_types() -> bytes:
    """Read the kernel's description of its own types.

    Raises:
        Unavailable: the kernel has none.
    """
    try:
        return KERNEL_TYPES.read_bytes()
    except OSError as cause:
        raise Unavailable(
            "The kernel does not describe its types (BTF)", "Use a kernel with CONFIG_DEBUG_INFO_BTF."
        ) from cause


def _quiet(function: elf.Function, place: _Place) -> int:
    skip = quiet_distance(function.code) if kernel.machine() == "x86_64" else None
    if skip is None:
        raise NotFound(f"{place.function} cannot be probed without a trace in the decky", "It goes unprobed.")
    return skip


def _open_first(pid1: int, paths: tuple[str, ...]) -> tuple[int, str]:
    for path in paths[:-1]:
        try:
            return rooted.open_regular(pid1, path), path
        except DecnetError:
            continue
    return rooted.open_regular(pid1, paths[-1]), paths[-1]


def _file_key(fd: int, path: str) -> _FileKey:
    if fd < 0:
        return "", 0, 0, 0
    status = os.fstat(fd)
    return path, status.st_ino, status.st_size, status.st_ctime_ns


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
