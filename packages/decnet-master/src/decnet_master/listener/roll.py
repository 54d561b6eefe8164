"""Who may ship, asked of the database in few questions.

A thousand workers that connect in one second are a handful of queries: while one is asked, whoever comes next gathers
for the one after it. Nothing is remembered, so a host that was decommissioned is refused from that moment on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from decnet_core.peer import Peer

Caller = tuple[str, str]
"""Host name and fingerprint of a verified certificate."""

Active = Callable[[Collection[Caller]], Awaitable[set[Caller]]]
"""Of the callers, those who may talk to us now; raises DecnetError when that cannot be told."""

ANSWER_SECS = 10.0
"""How long the database may take."""


def caller(peer: Peer) -> Caller:
    """Name a peer the way the books do."""
    return peer.identity.host, peer.fingerprint


class Roll:
    """Gathers questions."""

    def __init__(self, active: Active) -> None:
        self._active = active
        self._turn = asyncio.Lock()
        self._gathering: tuple[set[Caller], asyncio.Task[set[Caller]]] | None = None

    async def is_active(self, who: Caller) -> bool:
        """Tell whether a caller may talk to us now.

        Raises:
            DecnetError, TimeoutError: that cannot be told.
        """
        if self._gathering is None:
            asked: set[Caller] = set()
            self._gathering = asked, asyncio.get_running_loop().create_task(self._ask(asked), name="roll")
        asked, answer = self._gathering
        asked.add(who)
        return who in await asyncio.shield(answer)  # one of the askers may leave

    async def all_active(self, callers: Collection[Caller]) -> set[Caller]:
        """Tell which of many callers may talk to us now, in one question.

        Raises:
            DecnetError, TimeoutError: that cannot be told.
        """
        async with asyncio.timeout(ANSWER_SECS):
            return await self._active(callers)

    async def _ask(self, asked: set[Caller]) -> set[Caller]:
        async with self._turn:
            self._gathering = None
            return await self.all_active(frozenset(asked))
