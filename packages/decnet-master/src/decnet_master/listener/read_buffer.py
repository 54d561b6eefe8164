"""How much of a connection is read at a time: little while it is quiet, much while it is busy.

Every connection of asyncio's TLS keeps a buffer of one size for all its life. A thousand quiet workers with the size
that a busy one needs would be 256 MiB; with the least, a busy one would be woken sixteen times as often for as many
bytes. So each begins small, grows when its reads fill what it has, and is small again when it has been quiet. What all
of them have beyond the least is bounded.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from decnet_core.pki.tls import resize_read_buffer

LEAST_BYTES = 8 << 10
"""One TLS record of a worker that sends a few lines a second."""
MOST_BYTES = 256 << 10
GROWTH = 8
"""8, 64 and 256 KiB."""
BUDGET_BYTES = 4 << 20
"""For all that have more than the least: sixteen connections at full speed are more than two cores read."""


@dataclass(slots=True)
class Budget:
    """What all connections may take together beyond the least."""

    left_bytes: int = BUDGET_BYTES


class ReadBuffer:
    """One connection's; it begins small."""

    def __init__(self, transport: asyncio.BaseTransport, budget: Budget) -> None:
        self._transport = transport
        self._budget = budget
        self._largest_read = 0
        self.bytes = LEAST_BYTES
        resize_read_buffer(transport, LEAST_BYTES)

    def took(self, read_bytes: int) -> None:
        """Note a read; one that filled most of the buffer makes it larger."""
        self._largest_read = max(self._largest_read, read_bytes)
        if read_bytes > self.bytes * 3 // 4 and self.bytes < MOST_BYTES:
            self._resize(min(self.bytes * GROWTH, MOST_BYTES))

    def tick(self) -> None:
        """Let a second pass; a buffer of which little was used in it becomes small again."""
        if self.bytes > LEAST_BYTES and self._largest_read < self.bytes // GROWTH:
            self._resize(LEAST_BYTES)
        self._largest_read = 0

    def lost(self) -> None:
        """Give back what the connection had."""
        self._budget.left_bytes += self.bytes - LEAST_BYTES
        self.bytes = LEAST_BYTES

    def _resize(self, size_bytes: int) -> None:
        more_bytes = size_bytes - self.bytes
        if more_bytes <= self._budget.left_bytes:
            self._budget.left_bytes -= more_bytes
            self.bytes = size_bytes
            resize_read_buffer(self._transport, size_bytes)
