"""Pause the deckies when nothing contains them, and let them go on when something does again.

The containment process says whether the kernel enforces what was asked for. When it says no, the deckies are paused at
once. When it says nothing, its rules are in the kernel still, as far as anybody knows: it has `GRACE_SECS` to come
back. What an agent before this one has paused goes on too.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn, Protocol

import structlog

from decnet_agent.containment.channel import Guarding
from decnet_core.errors import DecnetError

LOOK_SECS = 2.0
"""One short call over a socket."""

GRACE_SECS = 15.0
"""A killed process is back within two seconds, a slow start of a busy worker takes ten."""

log = structlog.get_logger()


class Pausing(Protocol):
    """What can stop deckies; its calls block."""

    def pause_all(self) -> int:
        """Pause what runs."""

    def resume_all(self) -> int:
        """Let what is paused go on."""


async def keep_guarded(
    guard: Guarding, pausing: Pausing, *, look_secs: float = LOOK_SECS, grace_secs: float = GRACE_SECS
) -> NoReturn:
    """Do so for ever."""
    now = asyncio.get_running_loop().time
    good_at, paused, checked = now(), False, False
    while True:
        state = await guard.state()
        if state == "none":
            paused = await _pause(pausing, paused)
        elif state == "silent":
            if now() - good_at >= grace_secs:
                paused = await _pause(pausing, paused)
        else:
            good_at = now()
            if paused or not checked:
                checked = await _resume(pausing)
                paused = paused and not checked
        await asyncio.sleep(look_secs)


async def _pause(pausing: Pausing, paused: bool) -> bool:
    """Pause what runs, again at each look: the engine's own policy may have started one meanwhile."""
    try:
        count = await asyncio.to_thread(pausing.pause_all)
    except DecnetError as error:
        log.warning("deckies.pause_failed", reason=error.message, advice=error.advice)
        return paused
    if count:
        log.warning("deckies.paused", count=count)
    return True


async def _resume(pausing: Pausing) -> bool:
    try:
        count = await asyncio.to_thread(pausing.resume_all)
    except DecnetError as error:
        log.warning("deckies.pause_failed", reason=error.message, advice=error.advice)
        return False
    if count:
        log.info("deckies.resumed", count=count)
    return True
