"""Where the updater is put together.

The port is bound before anything else, so that one in use is told at once; then the identity is proved, and without
one the updater does not start: there is no mode in which it answers strangers. The agent renews it; the updater
follows on the disk.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from decnet_core import daemon
from decnet_core.endpoints import Endpoint, listen
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import LiveIdentity
from decnet_updater.http import application
from decnet_updater.http_server import serve
from decnet_updater.settings import UpdaterSettings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class App:
    """A wired updater: its socket is bound, its identity proved."""

    server: socket.socket
    identity: LiveIdentity

    @classmethod
    def build(cls, settings: UpdaterSettings) -> App:
        """Bind the address and open the identity.

        Raises:
            Conflict: the port is in use.
            Unavailable: the address is not this machine's.
            ConfigError: the address cannot be read.
            TrustError: there is no identity `updater@<host>`, or it cannot be trusted.
        """
        server = listen(Endpoint.parse(settings.updater_address), "updater-address")
        try:
            store = KeyStore(settings.identities_directory)
            return cls(server, LiveIdentity.open(store, Role.UPDATER, datetime.now(UTC)))
        except BaseException:
            server.close()
            raise

    async def run(self) -> None:
        """Answer the master until a signal comes."""
        address, port = self.server.getsockname()[:2]
        stored = self.identity.stored
        ends_at = stored.not_after.isoformat()
        log.info(
            "updater.started",
            identity=str(stored.identity),
            address=str(Endpoint(address, port)),
            identity_ends=ends_at,
        )
        ready = daemon.Ready(1)
        app = application(stored.identity.host)
        context = self.identity.server_context()
        await daemon.run(
            {"http": lambda: serve(app, self.server, context, ready), "identity": self.identity.watch}, ready
        )
