"""Bring deckies up: make them, ask the LAN once more for their addresses, start them; all three at the same time.

A decky goes its way as soon as it can: while one is started another is made, and the LAN is being asked about a third.
The engine gets `AT_ONCE` steps at a time. Of a question most is waiting, so that it is asked for many addresses, and
takes none of those places; there is one at a time, for as many deckies as are ready. Where some can be started and
others made, two are made for each that is started: the first are there soon, and the last question is over before
nothing but its answer is waited for.

The order that counts is kept: no decky is started whose address was not asked for after it was made. A step that fails
is its decky's failure. What is no such failure ends all: the steps under way come to their end, and no further ones are
begun.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

from decnet_agent.deploying.planning import CreateDecky, StartDecky

AT_ONCE = min(max(os.cpu_count() or 1, 2), 4)
"""Steps for the engine. Measured on two processors, 20 containers started: 8.8 s one at a time, 5.0 s two, 5.4 s three
and 6.2 s four at a time. Beyond four its own locks count."""

ASKED_TOGETHER = 8
"""Deckies that a question waits for while others are still made: it takes as long for one as for all of them."""


class BringingUp:
    """One time of bringing up; `run` does it.

    Args:
        creates: what is to be made.
        starts: what is to be started; what is not made here is ready.
        keyed: waits for a decky's host keys.
        do: does a step that nothing stops; tells whether it was done.
        ask: asks the LAN for the addresses of some deckies; returns those that may be started.
    """

    def __init__(
        self,
        creates: Sequence[CreateDecky],
        starts: Sequence[StartDecky],
        *,
        keyed: Callable[[str], Awaitable[None]],
        do: Callable[[CreateDecky | StartDecky], Awaitable[bool]],
        ask: Callable[[Sequence[str]], Awaitable[Sequence[str]]],
    ) -> None:
        self._creates = creates
        self._keyed = keyed
        self._do = do
        self._free = ask
        self._steps: asyncio.PriorityQueue[tuple[int, int, CreateDecky | StartDecky | None]] = asyncio.PriorityQueue()
        self._numbers = count()
        self._making, self._starting = count(), count(ASKED_TOGETHER, 2)
        self._unmade = len(creates)
        made_here = {step.decky.spec.name for step in creates}
        self._ready = [step.name for step in starts if step.name not in made_here]
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Bring them up; raises what a step raises that is no failure of its decky."""
        try:
            async with asyncio.TaskGroup() as group:
                for step in self._creates:
                    group.create_task(self._make(step))
                for _ in range(AT_ONCE):
                    group.create_task(self._work())
                group.create_task(self._ask())
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None  # the first: the others were cancelled for it

    async def _make(self, step: CreateDecky) -> None:
        await self._keyed(step.decky.spec.name)
        self._put(next(self._making), step)

    async def _work(self) -> None:
        while (step := (await self._steps.get())[2]) is not None:
            is_done = await self._do(step)
            if isinstance(step, CreateDecky):
                self._unmade -= 1
                if is_done:
                    self._ready.append(step.decky.spec.name)
                self._changed.set()

    async def _ask(self) -> None:
        while self._unmade or self._ready:
            if self._unmade and len(self._ready) < ASKED_TOGETHER:
                await self._changed.wait()
                self._changed.clear()
                continue
            names, self._ready = self._ready, []
            for name in await self._free(names):
                self._put(next(self._starting), StartDecky(name))
        for _ in range(AT_ONCE):
            self._put(sys.maxsize, None)

    def _put(self, turn: int, step: CreateDecky | StartDecky | None) -> None:
        self._steps.put_nowait((turn, next(self._numbers), step))
