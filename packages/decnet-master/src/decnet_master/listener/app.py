"""Put the listener together: identity, socket, database, journal, tasks.

It imports neither SQLAlchemy nor what makes certificates: `store.doorbook` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import structlog

from decnet_core.daemon import Ready, run
from decnet_core.descriptors import allow_descriptors
from decnet_core.endpoints import Endpoint, listen
from decnet_core.errors import RetryLater
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import LiveIdentity
from decnet_core.pki.tls import bound_connection_memory
from decnet_core.shipping.control import ALPN
from decnet_master.journal.quota import Quota
from decnet_master.journal.writer import JournalWriter
from decnet_master.listener.committer import Committer
from decnet_master.listener.ledger import Ledger
from decnet_master.listener.reporter import Progress, Reporter
from decnet_master.listener.roll import Roll
from decnet_master.listener.server import Server, ServerLimits
from decnet_master.settings import MasterSettings
from decnet_master.store.doorbook import DoorBook

SPARE_DESCRIPTORS = 128
"""Open files beside connections and handshakes: journal, database, sockets, logs; some thirty."""

FIRST_DELAY_SECS = 0.2
LONGEST_DELAY_SECS = 10.0

T = TypeVar("T")

log = structlog.get_logger()


class App:
    """The listener as a daemon."""

    def __init__(self, settings: MasterSettings, limits: ServerLimits | None = None) -> None:
        self._settings = settings
        self._limits = limits or ServerLimits()

    async def run(self) -> None:
        """Run until a signal comes.

        Raises:
            TrustError: the master has no identity.
            ConfigError: the database's schema is not this release's.
            Conflict: the port is taken, or another listener writes the journal.
            RemoteProtocolError: the journal is damaged.
            Unavailable: the address, the journal's folder or the database cannot be used as configured.
        """
        settings = self._settings
        identity = await LiveIdentity.awaited(KeyStore(settings.identities_directory), Role.MASTER)
        context = identity.server_context(alpn=(ALPN,))
        bound_connection_memory()
        self._allow_connections()
        with listen(Endpoint.parse(settings.listener_address), "listener-address") as listening:
            ready = Ready(1)
            live = functools.partial(self._live, listening, context, ready)
            await run({"listener": live, "identity": identity.watch}, ready)

    def _allow_connections(self) -> None:
        """Make room for as many open files as there may be connections, or take fewer of them."""
        spare = self._limits.handshakes + SPARE_DESCRIPTORS
        room = allow_descriptors(self._limits.connections + spare) - spare
        if room < self._limits.connections:
            log.warning("connections.limited", limit=room, advice="Raise the hard limit of open files (LimitNOFILE=).")
            self._limits = replace(self._limits, connections=max(room, 1))

    async def _live(self, listening: socket.socket, context: ssl.SSLContext, ready: Ready) -> None:
        settings = self._settings
        quota = Quota(settings.journal_quota_mib << 20, settings.journal_min_free_mib << 20)
        async with await _awaited(functools.partial(DoorBook.open, settings.database)) as book:
            open_journal = functools.partial(JournalWriter.open, settings.journal_directory, quota=quota)
            writer = await _awaited(functools.partial(asyncio.to_thread, open_journal))
            with contextlib.closing(writer):
                ledger = Ledger()
                progress = Progress(ledger, lambda: writer.end)
                committer = Committer(writer, progress.durable)
                server = Server(committer, Roll(book.active), ledger, self._limits)
                reporter = Reporter(
                    book,
                    ledger,
                    progress,
                    folder=settings.journal_directory,
                    quota=quota,
                    end=lambda: writer.end,
                    connections=lambda: server.connections,
                    stalled=lambda: committer.stalled,
                    counts=server.counts,
                )
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(committer.run(), name="committer")
                        group.create_task(server.watch(), name="watch")
                        group.create_task(server.muster(), name="muster")
                        group.create_task(reporter.run(), name="reporter")
                        group.create_task(server.accept(listening, context), name="accept")
                        log.info("listener.started", address=settings.listener_address)
                        ready.one_more()
                finally:
                    server.close()


def build(settings: MasterSettings, limits: ServerLimits | None = None) -> App:
    """Wire the listener; nothing is opened yet."""
    return App(settings, limits)


async def _awaited(attempt: Callable[[], Awaitable[T]]) -> T:
    """Open something, waiting for it while it is known to come back by itself."""
    delay_secs = FIRST_DELAY_SECS
    while True:
        try:
            return await attempt()
        except RetryLater as cause:
            log.warning("listener.waits", reason=cause.message, advice=cause.advice, retry_in_secs=delay_secs)
            await asyncio.sleep(delay_secs)
            delay_secs = min(delay_secs * 2, LONGEST_DELAY_SECS)
