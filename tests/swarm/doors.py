"""The five doors that strangers can knock at, open in the test's own loop, all of one master's CA.

enrolment   where workers join and renew: shows its certificate to anybody, judges one that is shown
agent       of worker w1: for the master alone
updater     of worker w1: for the master alone
listener    for the logships of active hosts
operators   of the controller: for operators who were let in
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from decnet_agent.api import routes as agent_routes
from decnet_agent.api import server as agent_server
from decnet_core.daemon import Ready
from decnet_core.endpoints import Endpoint, listen
from decnet_core.identity import MASTER, MASTER_HOST, Identity, Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import LiveIdentity
from decnet_core.pki.tls import IdentityFiles, client_context, server_context
from decnet_core.shipping.control import ALPN
from decnet_master.listener.app import App as ListenerApp
from decnet_master.settings import MasterSettings
from decnet_updater.http import application as updater_application
from decnet_updater.http_server import serve as serve_updater
from tests.pki.world import Ca
from tests.swarm.master import under_way
from tests.swarm.simulated import SimulatedAgent

HOST = "w1"
AGENT, UPDATER, LOGSHIP = (Identity(role, HOST) for role in (Role.AGENT, Role.UPDATER, Role.LOGSHIP))
OPERATOR = Identity(Role.OPERATOR, "alice")
ANSWER_SECS = 60.0


@dataclass(frozen=True)
class Door:
    """One of them.

    Attributes:
        name: see the module.
        port: on the loopback.
        server: what the certificate behind it names.
        visitor: who may come in.
        asks: what a visitor says.
        answered: what the answer to it begins with.
        refusals: the log events, one of which tells of a refusal.
    """

    name: str
    port: int
    server: str
    visitor: Identity
    asks: bytes
    answered: bytes
    refusals: tuple[str, ...]
    alpn: Sequence[str] = ()

    async def knock(self, context: ssl.SSLContext) -> bytes:
        """Say what a visitor says, and return the answer: nothing where one is hung up on."""
        with contextlib.suppress(OSError):  # an alert or a reset is a refusal
            async with asyncio.timeout(ANSWER_SECS):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self.port, ssl=context, server_hostname=self.server
                )
                try:
                    writer.write(self.asks)
                    return await reader.read(4096)
                finally:
                    writer.transport.abort()
        return b""

    async def admits(self, files: IdentityFiles | None, ca: Path) -> bool:
        """Tell whether somebody with these files gets what a visitor gets."""
        return (await self.knock(client_context(files, ca, self.alpn))).startswith(self.answered)


def _get(path: str, host: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


@contextlib.asynccontextmanager
async def open_doors(
    settings: MasterSettings, enrolment_port: int, operator_port: int, ca: Ca, folder: Path
) -> AsyncIterator[dict[str, Door]]:
    """Open all; those of the controller's process are open already."""
    async with contextlib.AsyncExitStack() as stack:
        ports = {}
        for name, identity in (("agent", AGENT), ("updater", UPDATER)):
            ports[name] = await stack.enter_async_context(_worker_door(name, ca.files(folder / name, identity)))
        ports["listener"] = await stack.enter_async_context(_listener(settings))
        failed = ("handshake.failed", "peer.refused", "call.refused", "request.refused")
        yield {
            "enrolment": Door(
                "enrolment", enrolment_port, MASTER_HOST, AGENT, _get("/ca", MASTER_HOST), b"HTTP/1.1 200", failed
            ),
            "agent": Door("agent", ports["agent"], HOST, MASTER, _get("/status", HOST), b"HTTP/1.1 200", failed),
            "updater": Door("updater", ports["updater"], HOST, MASTER, _get("/status", HOST), b"HTTP/1.1 200", failed),
            "listener": Door(
                "listener",
                ports["listener"],
                MASTER_HOST,
                LOGSHIP,
                b"39 \nHELLO " + b"0" * 32,
                b"9 \nRESUME",
                ("handshake.refused", "sender.refused"),
                (ALPN,),
            ),
            "operators": Door(
                "operators",
                operator_port,
                MASTER_HOST,
                OPERATOR,
                _get("/health", MASTER_HOST),
                b"HTTP/1.1 200",
                ("handshake.failed", "peer.refused", "operator.refused"),
            ),
        }


@contextlib.asynccontextmanager
async def _worker_door(name: str, files: IdentityFiles) -> AsyncIterator[int]:
    listening, ready = listen(Endpoint("127.0.0.1", 0), "an-address"), Ready(1)
    port, tls = listening.getsockname()[1], server_context(files)
    if name == "agent":
        serving = agent_server.serve(agent_routes.build(SimulatedAgent(HOST)), listening, tls, ready.one_more)
    else:
        serving = serve_updater(updater_application(HOST), listening, tls, ready)
    async with under_way(serving, ready):
        yield port


@contextlib.asynccontextmanager
async def _listener(settings: MasterSettings) -> AsyncIterator[int]:
    app, ready = ListenerApp(settings), Ready(1)
    identity = LiveIdentity.open(KeyStore(settings.identities_directory), Role.MASTER, datetime.now(UTC))
    with listen(Endpoint("127.0.0.1", 0), "listener-address") as listening:
        serving = app._live(listening, identity.server_context(alpn=(ALPN,)), ready)
        async with under_way(serving, ready):
            yield listening.getsockname()[1]
