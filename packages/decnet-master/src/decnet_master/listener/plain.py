"""One third-party sender's connection: RFC 5425 as it is, octet-counted frames and no acknowledgements.

What it sends is journaled like everything else, under a stream name of its own that ends with the connection; what
is in flight when something breaks is lost, as that protocol has it. Its messages may hold any byte, so they are kept
in their frames.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import UTC, datetime

import structlog

from decnet_core.errors import RemoteProtocolError
from decnet_core.peer import Peer
from decnet_core.shipping.control import Reason
from decnet_core.syslog.framing import FrameDecoder, encode_frames
from decnet_master.journal.record import PLAIN, Block, Kind
from decnet_master.listener.books import WINDOW_BYTES, Books
from decnet_master.listener.read_buffer import ReadBuffer

SILENCE_SECS = 3600.0
"""Plain senders have no sign of life; rsyslog keeps its connection open over quiet hours, the kernel's keepalive ends
dead ones earlier."""

log = structlog.get_logger()


class PlainConnection:
    """Serves RFC 5425 to one peer; reads nothing before the peer is found to be one who may ship."""

    def __init__(
        self,
        books: Books,
        transport: asyncio.Transport,
        peer: Peer,
        certificate_ends_at: datetime | None,
        max_message_bytes: int,
    ) -> None:
        self._books = books
        self._transport = transport
        self._buffer = ReadBuffer(transport, books.read_budget)
        self._certificate_ends_at = certificate_ends_at
        self._is_known = False  # to the ledger
        self._decoder = FrameDecoder(max_message_bytes)
        self._stream = f"{PLAIN}{secrets.token_hex(16)}"
        self._offset = 0
        self._committed_to = 0
        self._heard_at = time.monotonic()
        self.paused = True
        self.peer = peer
        transport.pause_reading()
        self._admission = asyncio.get_running_loop().create_task(self._admit(), name="admit")

    def data_received(self, data: bytes) -> None:
        """Take bytes from the transport."""
        self._buffer.took(len(data))
        self._heard_at = time.monotonic()
        self._books.ledger.heard(self.peer.identity.host)
        try:
            payloads = self._decoder.feed(data)
        except RemoteProtocolError as error:
            self._broken(error)
            return
        if payloads:
            self._store(encode_frames(payloads), len(payloads))
        if self._decoder.error is not None:
            self._broken(self._decoder.error)
        elif self._is_full():
            self.paused = True
            self._transport.pause_reading()

    def room(self) -> None:
        """Read again if there is room now."""
        if self.paused and self._admission.done() and not self._is_full():
            self.paused = False
            self._transport.resume_reading()

    def tick(self, now: float) -> None:
        """Let time pass."""
        self._buffer.tick()
        if not self.paused and now - self._heard_at > SILENCE_SECS:
            self._transport.close()

    def refuse(self, _reason: Reason) -> None:
        """End the connection; this protocol has no word to say why."""
        self._transport.abort()

    def lost(self) -> None:
        """Forget the connection."""
        self._buffer.lost()
        self._admission.cancel()
        if self._is_known:
            self._books.ledger.disconnected(self.peer.identity.host)

    async def _admit(self) -> None:
        if await self._books.may_ship(self.peer, self.refuse):
            self._is_known = True
            self._books.ledger.connected(self.peer, self._certificate_ends_at)
            log.info("sender.connected", identity=str(self.peer.identity), stream=self._stream, offset=0)
            asyncio.get_running_loop().call_soon(self.room)  # once this task is done

    def _store(self, data: bytes, messages: int) -> None:
        start, self._offset = self._offset, self._offset + len(data)
        identity = str(self.peer.identity)
        block = Block(identity, self._stream, start, self._offset, datetime.now(UTC), data, Kind.FRAMES)
        self._books.committer.submit(block, messages, self._committed, self._committed, self._transport.abort)

    def _committed(self, block: Block) -> None:
        self._committed_to = block.end

    def _is_full(self) -> bool:
        return self._offset - self._committed_to >= WINDOW_BYTES or self._books.committer.full

    def _broken(self, error: RemoteProtocolError) -> None:
        self._books.counts.protocol_errors += 1
        log.warning(
            "sender.broke_protocol",
            identity=str(self.peer.identity),
            address=self.peer.address,
            reason=error.message,
        )
        self._transport.abort()
