"""All that the kernel watches for us, in one place: tracepoints for every decky, uprobes for the files of each.

A uprobe sticks to an inode. Deckies made of one image share it, so each decky has its own attachment, whose cookie is
the decky's namespace; an attacker who replaces a probed file gets another inode, which `refresh` notices and probes.

All of it is left with our supervisor (`holdings`), each under a name that tells what it is:
    ring.<layout>.<generation>   deckies.<layout>   lost.<layout>   fork|exec|exit.<layout>
    p.<layout>.<namespace>.<place>.<key of the probed file>
A tap that finds the whole set takes it over (`taken_over`); of an incomplete or another layout's it takes nothing.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import structlog

from decnet_agent.tap import btf, elf, kernel, programs, rooted
from decnet_agent.tap.holdings import Holdings
from decnet_agent.tap.quiet import PROLOGUE_BYTES, quiet_distance
from decnet_agent.tap.ring import Ring
from decnet_core.errors import DecnetError, NotFound, Unavailable

RING_BYTES = 8 << 20
"""9,000 command lines of usual length that nobody read yet: what a supervisor's first few restarts take, also on a
machine that only starts programs."""
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
_FILES = {paths: [index for index, place in enumerate(_PLACES) if place.paths == paths] for paths in (_BASH, _PAM)}

_TRACEPOINTS = (
    ("fork", "sched_process_fork", programs.forked),
    ("exec", "sched_process_exec", programs.executed),
    ("exit", "sched_process_exit", programs.exited),
)
_PROBE = re.compile(r"p\.([0-9a-f]{6})\.([0-9]{1,10})\.([0-9])\.([0-9a-f]{6})")


@dataclass(frozen=True, slots=True)
class _Attachment:
    """A probe of one decky: the key of the file that it sits in, and its descriptor, -1 where that cannot be probed."""

    key: str
    link: int
    name: str


class KernelProbes:
    """The programs in the kernel and the ring that they write to; `fd` becomes readable when there is a record.

    Args:
        holdings: where descriptors outlive us.

    Attributes:
        generation: names the ring; positions are of this ring alone.
        taken_over: whether an earlier tap made it.

    Raises:
        Unavailable: this kernel or its policy cannot do it.
    """

    def __init__(self, holdings: Holdings | None = None) -> None:
        self._holdings = holdings or Holdings()
        offsets = btf.field_offsets(kernel_types(), programs.FIELDS)
        self._layout = layout(offsets)
        self._attached: dict[tuple[int, int], _Attachment] = {}
        self._links: list[int] = []
        self.generation = secrets.token_hex(8)
        self.taken_over = self._take_over()
        if not self.taken_over:
            self._make(offsets)
        self._ring = Ring(self._maps.ring, RING_BYTES)
        self._programs = {
            name: kernel.load_uprobe_program(code) for name, code in _uprobe_programs(self._maps, offsets).items()
        }

    @property
    def maps(self) -> programs.Maps:
        """The maps of the programs, for others that watch the same deckies."""
        return self._maps

    @property
    def fd(self) -> int:
        """What to wait on."""
        return self._ring.fd

    @property
    def position(self) -> int:
        """Where in the ring the next record begins."""
        return self._ring.position

    @property
    def end(self) -> int:
        """Up to where the kernel has written."""
        return self._ring.end

    def skip_to(self, position: int) -> None:
        """Pass over what an earlier tap had safe before it could free it."""
        self._ring.skip_to(position)

    def read(self, limit: int) -> Iterator[bytes]:
        """Give up to `limit` records; they stay in the ring until `consume`."""
        return self._ring.read(limit)

    def consume(self) -> None:
        """Free the room of what was read."""
        self._ring.consume()

    def lost(self) -> int:
        """Tell how many records found no room since the ring was made."""
        return kernel.counter_value(self._maps.lost)

    def watched(self) -> set[int]:
        """Tell whose probes an earlier tap left."""
        return {namespace for namespace, _ in self._attached}

    def watch(self, namespace: int) -> None:
        """Begin to tell of a decky's processes."""
        kernel.set_add(self._maps.deckies, namespace)

    def forget(self, namespace: int) -> None:
        """Stop telling of a decky."""
        kernel.set_remove(self._maps.deckies, namespace)
        for key in [key for key in self._attached if key[0] == namespace]:
            self._detach(self._attached.pop(key))

    def refresh(self, namespace: int, pid1: int, decky: str) -> None:
        """Set the uprobes of a decky, anew where its files changed; what cannot be probed is logged once."""
        for paths, indices in _FILES.items():
            try:
                fd, path = _open_first(pid1, paths)
            except DecnetError:
                fd, path = -1, ""
            try:
                for index in indices:
                    self._attach(namespace, index, decky, fd=fd, path=path)
            finally:
                if fd >= 0:
                    os.close(fd)

    def close(self) -> None:
        """Close our descriptors; what nobody else holds leaves the kernel."""
        links = [attachment.link for attachment in self._attached.values() if attachment.link >= 0]
        for fd in (*links, *self._links, *self._programs.values(), self._maps.deckies, self._maps.lost):
            os.close(fd)
        self._ring.close()

    def _take_over(self) -> bool:
        """Take what an earlier tap left; the probes of deckies that we are not told of are taken out by `forget`."""
        names = self._holdings.names()
        (generation,) = re.findall(rf"^ring\.{self._layout}\.([0-9a-f]+)$", "\n".join(names), re.MULTILINE)[:1] or [""]
        ring, deckies, lost = f"ring.{self._layout}.{generation}", f"deckies.{self._layout}", f"lost.{self._layout}"
        tracepoints = [f"{name}.{self._layout}" for name, _, _ in _TRACEPOINTS]
        if not {ring, deckies, lost, *tracepoints} <= set(names):
            return False
        take = self._holdings.take
        self.generation = generation
        self._maps = programs.Maps(take(ring), take(deckies), take(lost))
        self._links = [take(name) for name in tracepoints]
        for name in names:
            match = _PROBE.fullmatch(name)
            if match and match[1] == self._layout:
                self._attached[int(match[2]), int(match[3])] = _Attachment(match[4], take(name), name)
        return True

    def _make(self, offsets: Mapping[str, int]) -> None:
        self._maps = programs.Maps(
            kernel.create_ring(RING_BYTES), kernel.create_set(MAX_NAMESPACES), kernel.create_counter()
        )
        keep = self._holdings.keep
        keep(f"ring.{self._layout}.{self.generation}", self._maps.ring)
        keep(f"deckies.{self._layout}", self._maps.deckies)
        keep(f"lost.{self._layout}", self._maps.lost)
        for name, tracepoint, program in _TRACEPOINTS:
            self._links.append(kernel.attach_tracepoint(tracepoint, program(self._maps, offsets)))
            keep(f"{name}.{self._layout}", self._links[-1])

    def _attach(self, namespace: int, index: int, decky: str, *, fd: int, path: str) -> None:
        place, key = _PLACES[index], _file_key(fd, path)
        before = self._attached.get((namespace, index))
        if before is not None and before.key == key:
            return
        name = f"p.{self._layout}.{namespace}.{index}.{key}"
        if before is not None:
            log.warning("tap.probed_file_changed", decky=decky, file=place.paths[0])
            self._detach(before)
        link = -1
        try:
            function = elf.find_function(fd, place.function, code_bytes=PROLOGUE_BYTES)
            skip = _quiet(function, place)
            address = elf.variable_address(fd, place.variable) if place.variable else function.address + skip
            distance = address - function.address - skip
            link = kernel.attach_uprobe(
                self._programs[place.program],
                f"/proc/self/fd/{fd}",
                function.offset + skip,
                cookie=(distance & 0xFFFFFFFF) << 32 | namespace,
            )
        except DecnetError as cause:
            log.warning("tap.probe_failed", decky=decky, file=place.paths[0], reason=cause.message)
        else:
            self._holdings.keep(name, link)
        self._attached[namespace, index] = _Attachment(key, link, name)

    def _detach(self, attachment: _Attachment) -> None:
        if attachment.link >= 0:
            self._holdings.let_go(attachment.name)
            os.close(attachment.link)


def layout(offsets: Mapping[str, int]) -> str:
    """Name what the programs do and write, so that nobody reads it otherwise: a digest of all of them.

    Args:
        offsets: of the running kernel's fields.
    """
    maps = programs.Maps(0, 0, 0)
    codes = [program(maps, offsets) for _, _, program in _TRACEPOINTS]
    codes += _uprobe_programs(maps, offsets).values()
    return blake2b(b"".join((*codes, RING_BYTES.to_bytes(8, "big"))), digest_size=3).hexdigest()


def _uprobe_programs(maps: programs.Maps, offsets: Mapping[str, int]) -> dict[str, bytes]:
    registers = programs.REGISTERS[kernel.machine()]
    return {
        "prompted": programs.prompted(maps, offsets),
        "entered": programs.entered(maps, offsets, registers),
        "pam_user": programs.pam_user(maps, offsets, registers),
        "pam_item": programs.pam_item(maps, offsets, registers),
    }


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


def _file_key(fd: int, path: str) -> str:
    status = os.fstat(fd) if fd >= 0 else None
    facts = f"{path} {status.st_ino} {status.st_size} {status.st_ctime_ns}" if status else ""
    return blake2b(facts.encode(), digest_size=3).hexdigest()
