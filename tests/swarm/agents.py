"""Agents for tests: joined for real, served by the agent's own HTTP server over mutual TLS; behind it is a simulation.

The server, the routes and the refusals are the agent's; what stands behind them keeps the same contract (`simulated`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from decnet_agent import joining
from decnet_agent.api import routes as http
from decnet_agent.api import server as http_server
from decnet_agent.evidence.artifacts import Artifacts
from decnet_agent.settings import AgentSettings
from decnet_core.endpoints import Endpoint, listen
from decnet_core.enrolment import JoinToken
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import LiveIdentity
from tests.swarm.simulated import SimulatedAgent


class JoinedAgent(SimulatedAgent):
    """A simulated agent, and what joining gave it."""

    settings: AgentSettings
    identity: LiveIdentity


@asynccontextmanager
async def joined(token: JoinToken, folder: Path, *, role: Role = Role.AGENT) -> AsyncIterator[JoinedAgent]:
    """Join as a worker and serve its agent, with the certificate of `role`, until the block ends."""
    listening = listen(Endpoint("127.0.0.1", 0), "agent-address")
    port = listening.getsockname()[1]
    settings = AgentSettings.load(data_directory=folder / token.host, agent_address=f"127.0.0.1:{port}")
    await asyncio.to_thread(joining.join, settings, token)
    identity = LiveIdentity.open(KeyStore(settings.identities_directory), role, datetime.now(UTC))
    agent = JoinedAgent(token.host)
    agent.settings, agent.identity = settings, identity
    up = asyncio.Event()
    routes = http.build(agent, Artifacts(settings.quarantine_directory))
    task = asyncio.create_task(http_server.serve(routes, listening, identity.server_context(), up.set))
    try:
        async with asyncio.timeout(10):
            await up.wait()
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
