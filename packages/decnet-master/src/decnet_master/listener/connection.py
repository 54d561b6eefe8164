"""One logship's connection: the receiver's machine between a transport and the committer.

Memory is bounded: at most `WINDOW_BYTES` and one read of blocks that wait for the disk, one unfinished frame, and a
few acknowledgements. Beyond that the transport is not read, and TCP tells the sender.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import structlog

from decnet_core.errors import RemoteProtocolError, Unavailable
from decnet_core.peer import Peer
from decnet_core.shipping.control import Reason
from decnet_core.shipping.receiver import Command, End, Limits, Receiver, Resolve, Send, Store
from decnet_master.journal.record import Block, Key, Kind
from decnet_master.listener.books import WINDOW_BYTES, Books
from decnet_master.listener.read_buffer import ReadBuffer

UNREAD_BYTES = 64 << 10
"""A peer that does not read its acknowledgements, 20 bytes each, is gone or hostile."""

log = structlog.get_logger()


class Connection:
    """Serves `decnet-log/1` to one peer; made when the handshake is over."""

    def __init__(
        self, books: Books, transport: asyncio.Transport, peer: Peer, certificate_ends_at: datetime | None
    ) -> None:
        self._books = books
        self._transport = transport
        self._buffer = ReadBuffer(transport, books.read_budget)
        self._identity = str(peer.identity)
        self._certificate_ends_at = certificate_ends_at
        self._machine = Receiver(Limits(), time.monotonic())
        self._resolving: asyncio.Task[None] | None = None
        self._key: Key | None = None
        self._counted = ""  # the stream that the machine's offsets are of: the last one that was resumed
        self._is_known = False  # to the ledger
        self.paused = False
        self.peer = peer

    def data_received(self, data: bytes) -> None:
        """Take bytes from the transport."""
        self._buffer.took(len(data))
        if self._is_known:
            self._books.ledger.heard(self.peer.identity.host)
        self._execute(self._machine.receive(data, time.monotonic()))
        if self._machine.pending_bytes >= WINDOW_BYTES or self._books.committer.full:
            self.paused = True
            self._transport.pause_reading()

    def room(self) -> None:
        """Read again if there is room now."""
        if self.paused and self._machine.pending_bytes < WINDOW_BYTES and not self._books.committer.full:
            self.paused = False
            self._transport.resume_reading()

    def tick(self, now: float) -> None:
        """Let time pass."""
        self._buffer.tick()
        if not self.paused:
            self._execute(self._machine.tick(now))

    def refuse(self, reason: Reason) -> None:
        """End the connection, telling the sender why."""
        self._execute(self._machine.refuse(reason))

    def lost(self) -> None:
        """Forget the connection; its blocks that wait are still made durable."""
        self._buffer.lost()
        if self._resolving is not None:
            self._resolving.cancel()
        self._release()
        if self._is_known:
            self._books.ledger.disconnected(self.peer.identity.host)

    def _execute(self, commands: list[Command]) -> None:
        answers: list[bytes] = []  # one write for all of them: one TLS record, one system call
        for command in commands:
            match command:
                case Send(data):
                    answers.append(data)
                case Store():
                    self._store(command)
                case Resolve(stream):
                    self._resolving = asyncio.get_running_loop().create_task(self._resolve(stream), name="resolve")
                case End(error):
                    self._write(answers)
                    self._end(error)
        self._write(answers)
        if self._transport.get_write_buffer_size() > UNREAD_BYTES:
            self._transport.abort()

    def _write(self, answers: list[bytes]) -> None:
        if answers:
            self._transport.write(answers[0] if len(answers) == 1 else b"".join(answers))
            answers.clear()

    def _store(self, piece: Store) -> None:
        kind = Kind.LINES if piece.data else Kind.HOLE
        now = datetime.now(UTC)
        block = Block(self._identity, piece.stream, piece.start, piece.end, now, piece.data, kind)
        self._books.committer.submit(
            block, piece.data.count(b"\n"), self._committed, self._rejected, self._transport.abort
        )

    def _committed(self, block: Block) -> None:
        self._books.ledger.acknowledged(self.peer.identity.host, block.stream, block.end)
        if block.stream == self._counted:  # an offset of another stream says nothing about this one
            self._execute(self._machine.committed(block.end))

    def _rejected(self, block: Block) -> None:
        is_gap = block.start > self._books.committer.durable_offset(block.key)
        self._books.ledger.rejected(self.peer.identity.host, is_gap=is_gap)
        self._transport.abort()

    async def _resolve(self, stream: str) -> None:
        """Find out where the stream goes on, once nobody else adds to it and all of the one before is decided."""
        if not await self._books.may_ship(self.peer, self.refuse):
            return
        if self._books.is_stalled:
            self.refuse(Reason.FULL)
            return
        if not self._is_known:
            self._is_known = True
            self._books.ledger.connected(self.peer, self._certificate_ends_at)
        before = self._key
        self._release()
        self._key = key = (self._identity, stream)
        self._books.claim(key, self)
        if before is not None:
            await self._books.committer.settled(before)
        await self._books.committer.settled(key)
        if not self._books.holds(key, self):
            return
        offset = self._books.committer.durable_offset(key)
        log.info("sender.connected", identity=self._identity, stream=stream, offset=offset)
        self._books.ledger.resumed(self.peer.identity.host, stream, offset)
        self._counted = stream
        self._execute(self._machine.resumed(offset))

    def _release(self) -> None:
        if self._key is not None:
            self._books.release(self._key, self)
            self._key = None

    def _end(self, error: RemoteProtocolError | Unavailable) -> None:
        if isinstance(error, RemoteProtocolError):
            self._books.counts.protocol_errors += 1
            log.warning(
                "sender.broke_protocol",
                identity=self._identity,
                address=self.peer.address,
                reason=error.message,
            )
        self._transport.close()
