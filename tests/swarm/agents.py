"""Agents for tests: the agent's own HTTP server over mutual TLS, and behind it a fleet that is only a dictionary.

The server, the routes and the refusals are the agent's; what stands behind them keeps the same contract (generations,
reports) without an engine.
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
from decnet_agent.settings import AgentSettings
from decnet_core.endpoints import Endpoint, listen
from decnet_core.enrolment import JoinToken
from decnet_core.errors import Conflict
from decnet_core.fleet import AgentStatus, DeckyPhase, DeckyState, Health, Shard, ShardReport
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import LiveIdentity


class DictionaryAgent:
    """Runs deckies in name only; those in `broken` fail."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.generation = 0
        self.running: dict[str, DeckyState] = {}
        self.broken: set[str] = set()
        self.reason = "the image is missing"
        self.shards: list[Shard] = []
        self.asked = asyncio.Event()
        self.release = asyncio.Event()
        self.release.set()
        self.settings: AgentSettings | None = None
        self.identity: LiveIdentity | None = None

    def health(self) -> Health:
        return Health(role="agent", host=self.host, version="0.1.0")

    async def status(self) -> AgentStatus:
        return AgentStatus(
            host=self.host,
            version="0.1.0",
            generation=self.generation,
            deckies=tuple(self.running.values()),
            engine="20.10",
            at=datetime.now(UTC),
        )

    async def apply(self, shard: Shard) -> ShardReport:
        self.asked.set()
        await self.release.wait()
        if shard.generation < self.generation:
            raise Conflict(f"Generation {shard.generation} is older than {self.generation}", "Deploy again.")
        self.generation = shard.generation
        self.shards.append(shard)
        wanted = {decky.name for decky in shard.deckies}
        removed = tuple(sorted(self.running.keys() - wanted))
        self.running = {
            decky.name: DeckyState(
                name=decky.name,
                phase=DeckyPhase.FAILED if decky.name in self.broken else DeckyPhase.RUNNING,
                services=decky.services,
                mac=decky.mac,
                error=self.reason if decky.name in self.broken else None,
            )
            for decky in shard.deckies
        }
        return ShardReport(
            host=self.host, generation=shard.generation, deckies=tuple(self.running.values()), removed=removed
        )


@asynccontextmanager
async def joined(token: JoinToken, folder: Path, *, role: Role = Role.AGENT) -> AsyncIterator[DictionaryAgent]:
    """Join as a worker and serve its agent, with the certificate of `role`, until the block ends."""
    listening = listen(Endpoint("127.0.0.1", 0), "agent-address")
    port = listening.getsockname()[1]
    settings = AgentSettings.load(data_directory=folder / token.host, agent_address=f"127.0.0.1:{port}")
    await asyncio.to_thread(joining.join, settings, token)
    identity = LiveIdentity.open(KeyStore(settings.identities_directory), role, datetime.now(UTC))
    agent = DictionaryAgent(token.host)
    agent.settings, agent.identity = settings, identity
    up = asyncio.Event()
    task = asyncio.create_task(http_server.serve(http.build(agent), listening, identity.server_context(), up.set))
    try:
        async with asyncio.timeout(10):
            await up.wait()
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
