"""Keep the master's own certificate renewed, and change its CAs, in the process that has them open.

Every change of the CAs ends with a certificate for the master that fits them, and with the contexts of this process
using it; the listener follows on the disk. One change at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from decnet_core.errors import DecnetError
from decnet_core.pki.live import LiveIdentity
from decnet_master.enrolment.issuer import Issuer

KEEP_SECS = 60.0
"""How often the master's certificate is looked at; the shortest lives an hour."""

log = structlog.get_logger()


class IdentityKeeper:
    """Keeps the master's certificate renewed, in this process and on the disk."""

    def __init__(self, issuer: Issuer, identity: LiveIdentity) -> None:
        self.issuer = issuer
        self._identity = identity
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Look after it for ever."""
        while True:
            await asyncio.sleep(KEEP_SECS)
            try:
                await self.change(lambda _now: None)
            except DecnetError as error:
                log.warning("identity.unrenewed", reason=error.message, advice=error.advice)

    async def change(self, step: Callable[[datetime], None]) -> None:
        """Do something to the CAs, and make the master's certificate what it must be after it.

        Args:
            step: given the time; runs in a thread, because it makes keys and waits for the disk.

        Raises:
            DecnetError: what the step raises, or what keeps the certificate from being renewed.
        """

        def both() -> None:
            now = datetime.now(UTC)
            step(now)
            self.issuer.keep_identity(now)

        async with self._turn:
            await asyncio.to_thread(both)
            self._identity.refresh(datetime.now(UTC))
