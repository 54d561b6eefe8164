"""Deliver what taps of an earlier boot, or of another release, could not: their memories' outboxes.

Such a memory (`memory`) is not continued. Its events are delivered under its own source and cursors, so that the
collector knows what it has already, and then the file is removed. What cannot be read (a power cut in the middle of a
write) is put aside as `.unreadable`.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import structlog

from decnet_agent.evidence.sender import EvidenceSender
from decnet_agent.tap.memory import open_memory, read_meta, read_outbox
from decnet_core.errors import DecnetError

_ANY_CURSOR = 1 << 62
"""A power cut may take the end of a memory, not what the collector has: that may acknowledge what we do not know of."""

log = structlog.get_logger()


async def deliver(older: list[Path], collector: Path) -> None:
    """Deliver the outboxes of memories, one after another, then wait for ever.

    Args:
        older: their files.
        collector: its socket.
    """
    for path in older:
        await _deliver_one(path, collector)
    await asyncio.Event().wait()


async def _deliver_one(path: Path, collector: Path) -> None:
    sender = _load(path, collector)
    if sender is None:
        return
    sending = asyncio.create_task(sender.run())
    try:
        await sender.drained()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink(missing_ok=True)
    log.info("evidence.leftover_delivered", source=path.stem)


def _load(path: Path, collector: Path) -> EvidenceSender | None:
    sender = EvidenceSender(collector, path.stem)
    try:
        with contextlib.closing(open_memory(path)) as database:
            meta = read_meta(database)
            # A tap that was killed while it made the file has neither said nor promised anything.
            sender.restore(read_outbox(database) if meta else [], _ANY_CURSOR)
    except (OSError, ValueError, DecnetError) as cause:
        log.warning("evidence.leftover_unreadable", file=path.name, reason=type(cause).__name__)
        path.rename(path.with_suffix(".unreadable"))
        return None
    return sender
