"""What a tap could not deliver before it ended, kept on disk for the next one.

A tap that is told to end (its supervisor died, the host shuts down) may hold events that the collector has not
acknowledged. They are written to `<data-directory>/tap/<source>.jsonl` (0600), one line each as they go over the wire,
and whichever tap runs next delivers them under their own source and cursors, so that the collector knows what it has
already, and then removes the file. The folder is looked at again and again, because the ended tap may still be writing
while its successor starts.

A `kill -9` of the tap leaves no time for this: what it had not delivered by then is lost (usually some milliseconds).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NoReturn

import structlog

from decnet_agent.evidence.sender import EvidenceSender
from decnet_core.errors import DecnetError
from decnet_core.pki.durable import replace_file

LOOK_SECS = 1.0
MAX_FILES = 64
"""More than that many ends without one delivery in between: the oldest are delivered first, the rest wait."""

log = structlog.get_logger()


class Leftovers:
    """The folder of undelivered events, and their delivery."""

    def __init__(self, folder: Path, collector: Path) -> None:
        self._folder, self._collector = folder, collector

    def keep(self, sender: EvidenceSender) -> None:
        """Write down what a sender could not deliver; nothing when there is nothing."""
        lines = sender.undelivered()
        if not lines:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._folder / f"{sender.source}.jsonl", b"".join(lines), 0o600)
        except (OSError, DecnetError) as cause:
            log.warning("evidence.dropped", count=len(lines), reason=f"cannot be kept: {type(cause).__name__}")
        else:
            log.info("evidence.kept", count=len(lines), source=sender.source)

    async def deliver(self) -> NoReturn:
        """Deliver what earlier taps left, for ever."""
        while True:
            for path in sorted(self._folder.glob("*.jsonl"))[:MAX_FILES]:
                await self._deliver_one(path)
            await asyncio.sleep(LOOK_SECS)

    async def _deliver_one(self, path: Path) -> None:
        sender = self._load(path)
        if sender is None:
            return
        sending = asyncio.create_task(sender.run())
        try:
            await sender.drained()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        _remove(path)
        log.info("evidence.leftover_delivered", source=path.stem)

    def _load(self, path: Path) -> EvidenceSender | None:
        sender = EvidenceSender(self._collector, path.stem)
        try:
            sender.restore(path.read_bytes().splitlines(keepends=True))
        except (OSError, DecnetError) as cause:
            log.warning("evidence.leftover_unreadable", file=path.name, reason=type(cause).__name__)
            path.rename(path.with_suffix(".unreadable"))
            return None
        return sender


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
