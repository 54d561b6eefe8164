"""When to renew, and what then: the serving agent's side of `renewal`.

It looks at the clock often and at nothing else, because a machine that slept wakes up in the middle of a pause. When
the time has come it runs `decnet-agent renew` and, as long as that fails, again after a pause that doubles, drawn
evenly from zero up (a fleet whose master was away does not come back at once). A quarter of the certificate's life and
more is left for that. Whatever comes out, the agent goes on with the identity that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from decnet_core.logs import shown
from decnet_core.pki.live import LiveIdentity, renewal_due

LOOK_SECS = 60.0
FIRST_DELAY_SECS = 60.0
LONGEST_DELAY_SECS = 3600.0
"""A certificate of a week leaves two days and more for it."""

ATTEMPT_SECS = 120.0
"""Three questions of 15 s at most, and starting on a slow machine."""

MAX_WORDS_BYTES = 4096

log = structlog.get_logger()

Attempt = Callable[[], Awaitable[str | None]]


async def keep_renewed(
    identity: LiveIdentity,
    attempt: Attempt,
    *,
    look_secs: float = LOOK_SECS,
    first_delay_secs: float = FIRST_DELAY_SECS,
) -> None:
    """Have the identity renewed in time, for ever.

    Args:
        identity: the agent's.
        attempt: renews; returns why it could not, None when it did.
        look_secs: how often the clock is looked at.
        first_delay_secs: the longest pause after a first failure.
    """
    delay_secs, not_before = first_delay_secs, 0.0
    pause_secs = random.uniform(0, look_secs)  # noqa: S311 -- a rack that is switched on comes spread over it
    while True:
        await asyncio.sleep(pause_secs)
        pause_secs = look_secs
        now = datetime.now(UTC)
        # An ended one is nothing to try: `LiveIdentity.watch` tells of it, and takes up what a new join stores.
        if not renewal_due(identity.stored) <= now <= identity.stored.not_after or time.monotonic() < not_before:
            continue
        reason = await attempt()
        identity.refresh(datetime.now(UTC))
        if reason is None:
            delay_secs, not_before = first_delay_secs, 0.0
            continue
        wait_secs = random.uniform(0, delay_secs)  # noqa: S311 -- spreads load, hides nothing
        delay_secs = min(delay_secs * 2, LONGEST_DELAY_SECS)
        not_before = time.monotonic() + wait_secs
        ends = identity.stored.not_after.isoformat()
        log.warning("renewal.failed", reason=reason, ends=ends, retry_in_secs=round(wait_secs))


async def renew_in_a_process() -> str | None:
    """Run `decnet-agent renew`; return its last words when it failed."""
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "decnet_agent", "renew"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as cause:  # no memory, process or descriptor to be had: later there may be
        return f"it cannot be started: {cause.strerror}"
    assert process.stderr is not None  # noqa: S101 -- as asked for
    words = b""
    try:
        async with asyncio.timeout(ATTEMPT_SECS):
            while piece := await process.stderr.read(MAX_WORDS_BYTES):
                words = (words + piece)[-MAX_WORDS_BYTES:]
            if await process.wait() == 0:
                return None
    except TimeoutError:
        return f"it did not end within {ATTEMPT_SECS:.0f} s"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    said = " ".join(words.decode("utf-8", "replace").split())
    return shown(said, 500) or f"it ended with {process.returncode}"
