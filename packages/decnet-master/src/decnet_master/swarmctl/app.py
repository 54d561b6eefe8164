"""Put the controller's process together: its own port, and the enrolment endpoint's beside it.

Both ports are bound before anything is opened, so that one in use is told at once. This is the only process of the
master, beside `init`, that opens the CA. So it is the one that renews the master's own certificate, when it starts and
while it runs; the listener follows on the disk.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from random import Random

import structlog

from decnet_core import daemon
from decnet_core.daemon import Ready
from decnet_core.endpoints import Endpoint, listen
from decnet_core.errors import ConfigError
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import LiveIdentity
from decnet_core.pki.tls import Clients
from decnet_master import secret_files
from decnet_master.bootstrap.bundles import Bundles
from decnet_master.bootstrap.routes import Bootstrap
from decnet_master.enrolment.issuer import Issuer
from decnet_master.enrolment.registrar import Registrar
from decnet_master.enrolment.routes import LIMITS, endpoint
from decnet_master.enrolment.tokens import TokenMint, public_endpoint
from decnet_master.http_server import serve
from decnet_master.settings import MasterSettings
from decnet_master.store import Store
from decnet_master.swarmctl.agent_client import AgentClient
from decnet_master.swarmctl.checking import Checker
from decnet_master.swarmctl.currency import CurrentCertificates
from decnet_master.swarmctl.dispatch import Dispatcher
from decnet_master.swarmctl.heartbeat import Heart
from decnet_master.swarmctl.keeper import IdentityKeeper
from decnet_master.swarmctl.reconciler import Reconciler
from decnet_master.swarmctl.routes import controller
from decnet_master.swarmctl.updater_client import UpdaterClient

log = structlog.get_logger()


class App:
    """The controller as a daemon; its sockets are bound when it is made."""

    def __init__(self, settings: MasterSettings) -> None:
        self._settings = settings
        address = _loopback(Endpoint.parse(settings.controller_address))
        self.controller_socket = listen(address, "controller-address")
        self.enrolment_socket = listen(Endpoint.parse(settings.enrolment_address), "enrolment-address")
        self.ready = Ready(2)

    async def run(self) -> None:
        """Run until a signal comes.

        Raises:
            ConfigError, TrustError: the master was not initialised, or its secrets are open to others.
            Unavailable: the database does not answer.
        """
        await daemon.run({"swarmctl": self.serve}, self.ready)

    async def serve(self) -> None:
        """Run until cancelled; raises as `run` does. The sockets are closed at the end."""
        with closing(self.controller_socket), closing(self.enrolment_socket):
            await self._serve()

    async def _serve(self) -> None:
        settings, now = self._settings, datetime.now(UTC)
        secret = secret_files.read(settings.controller_secret_file)
        issuer = Issuer.open(settings, now)
        issuer.keep_identity(now)
        identity = LiveIdentity.open(KeyStore(settings.identities_directory), Role.MASTER, now)
        bound = _endpoint(self.enrolment_socket)
        async with await Store.open(settings.database) as store:
            current = CurrentCertificates(store)
            agents = AgentClient(identity.client_context, current)
            dispatcher = Dispatcher(agents, store)
            reconciler = Reconciler(store, dispatcher, Random())  # noqa: S311 -- pauses, no secrets
            heart = Heart(store, dispatcher, reconciler, settings.heartbeat_secs, Random())  # noqa: S311 -- as above
            checker = Checker(store, dispatcher, UpdaterClient(identity.client_context, current))
            registrar = Registrar(store, issuer, Endpoint.parse(settings.listener_address).port)
            keeper = IdentityKeeper(issuer, identity)
            control = controller(
                store,
                TokenMint(
                    store,
                    lambda: issuer.authorities.anchor.fingerprint,
                    partial(public_endpoint, settings.public_address, bound),
                ),
                dispatcher,
                registrar,
                keeper,
                checker=checker,
                secret=secret,
                address=Endpoint.parse(settings.controller_address),
                token_minutes=settings.token_minutes,
                bundles=Bundles(settings.bundles_directory),
            )
            bootstrap = Bootstrap(store, Bundles(settings.bundles_directory), checker)
            tls = identity.server_context(clients=Clients.ASKED)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(serve(control, self.controller_socket, ready=self.ready))
                    group.create_task(
                        serve(
                            endpoint(registrar, bootstrap),
                            self.enrolment_socket,
                            ready=self.ready,
                            tls=tls,
                            limits=LIMITS,
                        )
                    )
                    group.create_task(keeper.run())
                    group.create_task(heart.run())
                    log.info(
                        "controller.started",
                        controller=str(_endpoint(self.controller_socket)),
                        enrolment=str(bound),
                    )
            finally:
                await reconciler.close()
                await dispatcher.close()


def build(settings: MasterSettings) -> App:
    """Wire the controller and bind its ports.

    Raises:
        Conflict: a port is in use.
        ConfigError: an address is none, or the controller's is not this machine's own.
        Unavailable: an address cannot be listened on.
    """
    return App(settings)


def _loopback(address: Endpoint) -> Endpoint:
    """Let the controller listen on the loopback only: its secret is not encrypted on the way."""
    try:
        is_loopback = address.host == "localhost" or ip_address(address.host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ConfigError(f"The controller cannot listen on {address}", "Set controller-address to 127.0.0.1:8770.")
    return address


def _endpoint(bound: socket.socket) -> Endpoint:
    host, port = bound.getsockname()[:2]
    return Endpoint(str(host), int(port))
