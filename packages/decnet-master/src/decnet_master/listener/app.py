"""Put the listener together: identity, socket, database, journal, tasks."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from decnet_core.daemon import Ready, run
from decnet_core.endpoints import Endpoint, listen
from decnet_core.errors import RetryLater
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import bound_connection_memory, server_context
from decnet_core.shipping.control import ALPN
from decnet_master.journal.writer import JournalWriter
from decnet_master.listener.committer import Committer
from decnet_master.listener.server import Server, ServerLimits
from decnet_master.settings import MasterSettings
from decnet_master.store import Store

CONNECTIONS = 2
"""Questions about hosts are short; two at a time keep up with a reconnect storm."""

FIRST_DELAY_SECS = 0.2
LONGEST_DELAY_SECS = 10.0

T = TypeVar("T")

log = structlog.get_logger()


class App:
    """The listener as a daemon."""

    def __init__(self, settings: MasterSettings, limits: ServerLimits | None = None) -> None:
        self._settings = settings
        self._limits = limits

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
        identity = KeyStore(settings.identities_directory).load(Role.MASTER, datetime.now(UTC))
        context = server_context(identity.files, alpn=(ALPN,))
        bound_connection_memory()
        with listen(Endpoint.parse(settings.listener_address), "listener-address") as listening:
            ready = Ready(1)
            await run({"listener": functools.partial(self._live, listening, context, ready)}, ready)

    async def _live(self, listening: socket.socket, context: ssl.SSLContext, ready: Ready) -> None:
        settings = self._settings
        async with await _awaited(functools.partial(Store.open, settings.database, CONNECTIONS)) as store:
            open_journal = functools.partial(JournalWriter.open, settings.journal_directory)
            writer = await _awaited(functools.partial(asyncio.to_thread, open_journal))
            with contextlib.closing(writer):
                committer = Committer(writer)
                server = Server(committer, store.hosts.is_active, self._limits)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(committer.run(), name="committer")
                        group.create_task(server.watch(), name="watch")
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
