"""The listener's server inside the test's loop, on a free port, with a real journal."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from decnet_core.endpoints import Endpoint, listen
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import server_context
from decnet_core.shipping.control import ALPN
from decnet_master.journal.quota import Quota
from decnet_master.journal.writer import SEGMENT_BYTES, JournalWriter
from decnet_master.listener.committer import Committer
from decnet_master.listener.ledger import Ledger
from decnet_master.listener.reporter import Progress
from decnet_master.listener.roll import Caller, Roll
from decnet_master.listener.server import Server, ServerLimits
from tests.shipping.place import WORKER, Place

WAIT_SECS = 20.0  # a bound for what takes milliseconds


@dataclass
class Books:
    """Which hosts are active: the port that the listener's door book implements."""

    active: set[str] = field(default_factory=lambda: {WORKER})
    questions: int = 0

    async def of(self, callers: Collection[Caller]) -> set[Caller]:
        self.questions += 1
        return {(host, fingerprint) for host, fingerprint in callers if host in self.active}


@dataclass
class Receiving:
    """A running listener."""

    server: Server
    writer: JournalWriter
    books: Books
    ledger: Ledger
    progress: Progress
    port: int

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)


@asynccontextmanager
async def receiving(
    place: Place,
    port: int = 0,
    limits: ServerLimits | None = None,
    quota: Quota | None = None,
    segment_bytes: int = SEGMENT_BYTES,
) -> AsyncIterator[Receiving]:
    """Serve until the block ends."""
    files = KeyStore(place.master_data / "identities").load(Role.MASTER, datetime.now(UTC)).files
    writer = JournalWriter.open(place.journal, segment_bytes=segment_bytes, quota=quota)
    books, ledger = Books(), Ledger()
    progress = Progress(ledger, lambda: writer.end)
    committer = Committer(writer, progress.durable)
    server = Server(committer, Roll(books.of), ledger, limits)
    listening: socket.socket = listen(Endpoint("127.0.0.1", port), "listener-address")
    tasks = [
        asyncio.create_task(committer.run()),
        asyncio.create_task(server.watch()),
        asyncio.create_task(server.muster()),
        asyncio.create_task(server.accept(listening, server_context(files, alpn=(ALPN,)))),
    ]
    try:
        yield Receiving(server, writer, books, ledger, progress, listening.getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        listening.close()
        writer.close()


async def reached(level: Callable[[], bool], what: str, timeout_secs: float = WAIT_SECS) -> None:
    """Wait until a level is reached, with a bound."""
    async with asyncio.timeout(timeout_secs):
        while not level():
            await asyncio.sleep(0.01)
    assert level(), what
