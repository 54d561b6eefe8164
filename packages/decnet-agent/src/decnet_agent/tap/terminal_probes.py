"""What the kernel watches of terminals for us: one program at the end of system calls, its ring and its counters.

As with `probes`, all of it is left with our supervisor, under names that tell what it is:
    screens.<layout>.<generation> (the ring)   screens-counters.<layout>   screens-calls.<layout>
The program looks into the map of deckies of `KernelProbes`. Where that map was made anew, so is all of this.
"""

from __future__ import annotations

import os
import re
import secrets
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from decnet_agent.tap import btf, kernel, programs
from decnet_agent.tap import terminal_programs as terminal
from decnet_agent.tap.holdings import Holdings
from decnet_agent.tap.probes import kernel_types
from decnet_agent.tap.ring import Ring
from decnet_agent.tap.terminal_programs import HEADER_BYTES, Kind
from decnet_core.errors import RemoteProtocolError, Unavailable

RING_BYTES = 8 << 20
"""What a gigabit carries to a screen in a twentieth of a second; we read as soon as there is something."""
MAX_TERMINALS = 8192
"""Directions of terminals that are counted; the one that was silent for the longest time is forgotten first."""

_HEADER = struct.Struct("=IIQQIIQHHIQ")


@dataclass(frozen=True, slots=True)
class TerminalRecord:
    """One fact about a terminal.

    Times are nanoseconds since boot. `terminal` tells terminals apart while they live, `number` is that of /dev/pts.
    `pid` and `started_ns` are of the process that holds the master. `missing_bytes` counts from the first byte on.
    """

    kind: Kind
    namespace: int
    at_ns: int
    terminal: int
    pid: int
    number: int
    started_ns: int
    rows: int
    columns: int
    missing_bytes: int
    data: bytes = b""


def decode(data: bytes) -> TerminalRecord:
    """Read one record.

    Raises:
        RemoteProtocolError: the bytes are not of the layout.
    """
    if len(data) < HEADER_BYTES:
        raise RemoteProtocolError("A record of a terminal is shorter than its header")
    kind, namespace, at_ns, address, pid, number, started, rows, columns, length, missing = _HEADER.unpack_from(data)
    if kind not in set(Kind):
        raise RemoteProtocolError(f"A record of a terminal has the unknown kind {kind}")
    if HEADER_BYTES + length > len(data):
        raise RemoteProtocolError("A record of a terminal is shorter than its data")
    told = data[HEADER_BYTES : HEADER_BYTES + length]
    return TerminalRecord(Kind(kind), namespace, at_ns, address, pid, number, started, rows, columns, missing, told)


class TerminalProbes:
    """The program in the kernel and its ring; `fd` becomes readable when there is a record.

    Args:
        holdings: where descriptors outlive us.
        shared: the maps of `KernelProbes`.
        continued: whether an earlier tap made those.

    Attributes:
        generation: names the ring; positions are of this ring alone.
        taken_over: whether an earlier tap made it.

    Raises:
        Unavailable: this kernel or its policy cannot do it.
    """

    def __init__(self, holdings: Holdings, shared: programs.Maps, *, continued: bool) -> None:
        if kernel.machine() != "x86_64":
            raise Unavailable("Terminals are recorded on x86_64 alone", "Commands, passwords and files are watched.")
        self._holdings, self._shared = holdings, shared
        types = kernel_types()
        self._offsets = btf.field_offsets(types, terminal.FIELDS)
        self._tracepoint = btf.tracepoint_ids(types, [terminal.TRACEPOINT])[terminal.TRACEPOINT]
        self._layout = layout(self._offsets)
        self.generation = secrets.token_hex(8)
        self._link = -1
        self.taken_over = continued and self._take_over()
        if not self.taken_over:
            self._make()
        self._ring = Ring(self._maps.ring, RING_BYTES)

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

    def close(self) -> None:
        """Close our descriptors; what nobody else holds leaves the kernel."""
        for fd in (self._link, self._maps.terminals):
            os.close(fd)
        self._ring.close()

    def _take_over(self) -> bool:
        names = self._holdings.names()
        found = re.findall(rf"^screens\.{self._layout}\.([0-9a-f]+)$", "\n".join(names), re.MULTILINE)
        counters, calls = f"screens-counters.{self._layout}", f"screens-calls.{self._layout}"
        if not found or not {counters, calls} <= set(names):
            return False
        self.generation = found[0]
        take = self._holdings.take
        ring = take(f"screens.{self._layout}.{self.generation}")
        self._maps = terminal.TerminalMaps(ring, self._shared.deckies, self._shared.lost, take(counters))
        self._link = take(calls)
        return True

    def _make(self) -> None:
        self._maps = terminal.TerminalMaps(
            kernel.create_ring(RING_BYTES),
            self._shared.deckies,
            self._shared.lost,
            kernel.create_table(terminal.KEY_BYTES, terminal.COUNTERS_BYTES, MAX_TERMINALS),
        )
        self._link = kernel.attach_typed_tracepoint(self._tracepoint, terminal.watched(self._maps, self._offsets))
        keep = self._holdings.keep
        keep(f"screens.{self._layout}.{self.generation}", self._maps.ring)
        keep(f"screens-counters.{self._layout}", self._maps.terminals)
        keep(f"screens-calls.{self._layout}", self._link)


def layout(offsets: Mapping[str, int]) -> str:
    """Name what the program does and writes: a digest of it."""
    code = terminal.watched(terminal.TerminalMaps(0, 0, 0, 0), offsets)
    return blake2b(code + RING_BYTES.to_bytes(8, "big"), digest_size=3).hexdigest()
