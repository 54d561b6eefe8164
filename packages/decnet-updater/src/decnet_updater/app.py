"""Where the updater is put together.

The port is bound before anything else, so that one in use is told at once; then the identity is proved, and without
one the updater does not start: there is no mode in which it answers strangers.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from decnet_core import daemon
from decnet_core.endpoints import Endpoint, listen
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore, StoredIdentity
from decnet_core.pki.tls import server_context
from decnet_updater.http import application
from decnet_updater.http_server import serve
from decnet_updater.settings import UpdaterSettings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class App:
    """A wired updater: its socket is bound, its identity proved."""

    server: socket.socket
    stored: StoredIdentity
    context: ssl.SSLContext

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
            stored = KeyStore(settings.identities_directory).load(Role.UPDATER, datetime.now(UTC))
            return cls(server, stored, server_context(stored.files))
        except BaseException:
            server.close()
            raise

    async def run(self) -> None:
        """Answer the master until a signal comes."""
        address, port = self.server.getsockname()[:2]
        identity = self.stored.identity
        ends_at = self.stored.not_after.isoformat()
        log.info("updater.started", identity=str(identity), address=str(Endpoint(address, port)), identity_ends=ends_at)
        ready = daemon.Ready(1)
        app = application(identity.host)
        await daemon.run({"http": lambda: serve(app, self.server, self.context, ready)}, ready)
