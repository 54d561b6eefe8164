"""Put the controller's process together: its own port, that for operators elsewhere, and the enrolment endpoint's.

The ports are bound before anything is opened, so that one in use is told at once. This is the only process of the
master, beside `init`, that opens the CA. So it is the one that renews the master's own certificate, when it starts and
while it runs; the listener follows on the disk.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
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
from decnet_master.artifact_shelf import ArtifactShelf
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
from decnet_master.swarmctl.changes import Changes
from decnet_master.swarmctl.checking import Checker
from decnet_master.swarmctl.currency import CurrentCertificates
from decnet_master.swarmctl.dispatch import Dispatcher
from decnet_master.swarmctl.heartbeat import Heart
from decnet_master.swarmctl.keeper import IdentityKeeper
from decnet_master.swarmctl.lifecycle import keep_alive, mutate_one, reset_some
from decnet_master.swarmctl.operator_door import LIMITS as OPERATOR_LIMITS
from decnet_master.swarmctl.operator_door import OperatorDoor
from decnet_master.swarmctl.reconciler import Reconciler
from decnet_master.swarmctl.routes import behind_certificates, behind_secret, rooms
from decnet_master.swarmctl.updater_client import UpdaterClient

log = structlog.get_logger()


class App:
    """The controller as a daemon; its sockets are bound when it is made."""

    def __init__(self, settings: MasterSettings) -> None:
        self._settings = settings
        address = _loopback(Endpoint.parse(settings.controller_address))
        operators = _operators(settings.operator_address, address)
        with ExitStack() as bound:  # what was bound is let go again when the next cannot be
            self.controller_socket = bound.enter_context(listen(address, "controller-address"))
            enrolment = Endpoint.parse(settings.enrolment_address)
            self.enrolment_socket = bound.enter_context(listen(enrolment, "enrolment-address"))
            self.operator_socket: socket.socket | None = None
            if operators is not None:
                self.operator_socket = bound.enter_context(listen(operators, "operator-address"))
            self._bound = bound.pop_all()
        self.ready = Ready(2 if self.operator_socket is None else 3)

    async def run(self) -> None:
        """Run until a signal comes.

        Raises:
            ConfigError, TrustError: the master was not initialised, or its secrets are open to others.
            Unavailable: the database does not answer.
        """
        await daemon.run({"swarmctl": self.serve}, self.ready)

    async def serve(self) -> None:
        """Run until cancelled; raises as `run` does. The sockets are closed at the end."""
        with self._bound:
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
            changes = Changes(store, dispatcher, secret)  # seeds what a plan draws
            registrar = Registrar(store, issuer, Endpoint.parse(settings.listener_address).port)
            keeper = IdentityKeeper(issuer, identity)
            control = rooms(
                store,
                TokenMint(
                    store,
                    lambda: issuer.authorities.anchor.fingerprint,
                    partial(public_endpoint, settings.public_address, bound),
                ),
                dispatcher,
                changes,
                registrar,
                keeper=keeper,
                checker=checker,
                token_minutes=settings.token_minutes,
                bundles=Bundles(settings.bundles_directory),
                shelf=ArtifactShelf(settings.artifacts_directory),
            )
            bootstrap = Bootstrap(store, Bundles(settings.bundles_directory), checker)
            tls = identity.server_context(clients=Clients.ASKED)
            try:
                async with asyncio.TaskGroup() as group:
                    local = behind_secret(control, secret, Endpoint.parse(settings.controller_address))
                    group.create_task(serve(local, self.controller_socket, ready=self.ready))
                    if self.operator_socket is not None:
                        door = OperatorDoor(control, store.operators)
                        group.create_task(door.muster())
                        group.create_task(
                            serve(
                                behind_certificates(door),
                                self.operator_socket,
                                ready=self.ready,
                                tls=identity.server_context(),
                                limits=OPERATOR_LIMITS,
                                guests=door,
                            )
                        )
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
                    if settings.reset_after_idle_hours:
                        idle = timedelta(hours=settings.reset_after_idle_hours)
                        group.create_task(keep_alive(partial(reset_some, store, changes, idle)))
                    if settings.mutate_every_hours:
                        every = timedelta(hours=settings.mutate_every_hours)
                        group.create_task(keep_alive(partial(mutate_one, store, changes, every)))
                    log.info(
                        "controller.started",
                        controller=str(_endpoint(self.controller_socket)),
                        enrolment=str(bound),
                        operators=None if self.operator_socket is None else str(_endpoint(self.operator_socket)),
                    )
            finally:
                await reconciler.close()
                await dispatcher.close()


def build(settings: MasterSettings) -> App:
    """Wire the controller and bind its ports.

    Raises:
        Conflict: a port is in use.
        ConfigError: an address is none, the controller's is not this machine's own, or that for operators takes it in.
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
        raise ConfigError(
            f"The controller cannot listen on {address}: its secret would cross the network in the clear",
            "Set controller-address to 127.0.0.1:8770; operator-address is for operators elsewhere, by mutual TLS.",
        )
    return address


def _operators(text: str | None, controller: Endpoint) -> Endpoint | None:
    """Tell where operators elsewhere are served, or refuse an address that the controller's own port is part of."""
    if text is None:
        return None
    address = Endpoint.parse(text)
    if address.port and address.port == controller.port and address.host in {"0.0.0.0", "::"}:
        raise ConfigError(
            f"operator-address {address} takes in the controller's own port on the loopback, {controller}",
            "Name one address of this machine in operator-address, or another port, such as 0.0.0.0:8772.",
        )
    return address


def _endpoint(bound: socket.socket) -> Endpoint:
    host, port = bound.getsockname()[:2]
    return Endpoint(str(host), int(port))
