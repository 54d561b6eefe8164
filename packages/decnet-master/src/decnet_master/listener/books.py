"""What all connections of the listener share: committer, roll, ledger, which connection ships a stream, counts.

Of one (identity, stream) the newest connection ships: `claim` shuts the one before out at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from decnet_core.errors import DecnetError
from decnet_core.peer import Peer
from decnet_core.shipping.control import Reason
from decnet_master.journal.record import Key
from decnet_master.listener.committer import Committer
from decnet_master.listener.ledger import Ledger
from decnet_master.listener.read_buffer import Budget
from decnet_master.listener.roll import Roll, caller

WINDOW_BYTES = 4 << 20
"""Of one connection, waiting for the disk. A sender's default window: one that keeps to it is never stopped by this."""

log = structlog.get_logger()


@dataclass(slots=True)
class Counts:
    """What happened since the start."""

    accepted: int = 0
    handshakes_refused: int = 0
    refused: int = 0
    superseded: int = 0
    protocol_errors: int = 0


class Holder(Protocol):
    """A connection that ships a stream."""

    def refuse(self, reason: Reason) -> None:
        """End it, telling the sender why."""


class Books:
    """Kept by the server, asked by its connections."""

    def __init__(self, committer: Committer, roll: Roll, ledger: Ledger, stall_secs: float) -> None:
        self.committer = committer
        self.roll = roll
        self.ledger = ledger
        self._stall_secs = stall_secs
        self.counts = Counts()
        self.read_budget = Budget()
        self._holders: dict[Key, Holder] = {}

    @property
    def is_stalled(self) -> bool:
        """Whether the journal takes nothing, and for so long that senders are to know."""
        stall = self.committer.stalled
        return stall is not None and time.monotonic() - stall.since > self._stall_secs

    async def may_ship(self, peer: Peer, refuse: Callable[[Reason], None]) -> bool:
        """Ask the database whether the peer's host is active; refuse it if not, or if that cannot be told now."""
        try:
            active = await self.roll.is_active(caller(peer))
        except (DecnetError, TimeoutError) as error:
            self.refused(peer, Reason.BUSY, getattr(error, "message", "the database did not answer in time"))
            refuse(Reason.BUSY)
            return False
        if not active:
            self.refused(peer, Reason.HOST, "its host is not active in the books")
            refuse(Reason.HOST)
        return active

    def claim(self, key: Key, connection: Holder) -> None:
        """Make the connection the one that ships the stream; one that did before is shut out."""
        before = self._holders.get(key)
        self._holders[key] = connection
        if before is not None and before is not connection:
            self.counts.superseded += 1
            log.info("sender.superseded", identity=key[0], stream=key[1])
            before.refuse(Reason.SUPERSEDED)

    def holds(self, key: Key, connection: Holder) -> bool:
        """Tell whether it is this connection that ships the stream."""
        return self._holders.get(key) is connection

    def release(self, key: Key, connection: Holder) -> None:
        """Take the claim back, unless a newer connection has it already."""
        if self._holders.get(key) is connection:
            del self._holders[key]

    def refused(self, peer: Peer, reason: Reason, why: str) -> None:
        """Count and log a peer that is refused."""
        self.counts.refused += 1
        self.ledger.refused(peer.identity.host)
        log.warning("sender.refused", identity=str(peer.identity), address=peer.address, reason=reason.value, why=why)
