"""Make the host keys of a shard's deckies while everything else goes on.

They are what takes most of a processor when a decky is made, and nothing that the engine or the LAN says changes them.
So their making begins with the shard, and a decky waits for its own keys alone. When it fails nobody waits any longer,
and what furnishes a decky then finds out for that decky what keeps its keys from being made.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from decnet_agent.furnishing.host_keys import HostKeys
from decnet_core.errors import DecnetError


class KeyMaking:
    """The making of the keys of some deckies; it begins at once, in a thread.

    Args:
        host_keys: of this worker.
        deckies: whose keys are wanted.
        threads: one of them is taken.
    """

    def __init__(self, host_keys: HostKeys, deckies: Sequence[str], threads: ThreadPoolExecutor) -> None:
        self._host_keys = host_keys
        self._loop = asyncio.get_running_loop()
        self._made = {decky: asyncio.Event() for decky in deckies}
        self._work = self._loop.run_in_executor(threads, self._make, tuple(deckies)) if deckies else None
        if self._work is not None:
            self._work.add_done_callback(lambda _work: self._over())

    async def made(self, decky: str) -> None:
        """Wait until a decky's keys are there, or will not be made here."""
        if decky in self._made:
            await self._made[decky].wait()

    async def end(self) -> None:
        """Make no more; the thread is free when this comes back."""
        if self._work is not None and not self._work.done():
            self._host_keys.stop()
            await asyncio.wait({self._work})

    def _make(self, deckies: Sequence[str]) -> None:
        with contextlib.suppress(DecnetError):  # who furnishes a decky without keys is told, and tells
            for decky in self._host_keys.make(deckies):
                self._loop.call_soon_threadsafe(self._made[decky].set)

    def _over(self) -> None:
        for made in self._made.values():
            made.set()
