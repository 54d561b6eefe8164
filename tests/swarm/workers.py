"""Workers for tests of what the controller does by itself: a simulated agent behind the agent's own server, that can go
away, come back at the same port, and be asked how often it was spoken to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx

from decnet_agent import joining
from decnet_agent.api import routes as http
from decnet_agent.api import server as http_server
from decnet_agent.settings import AgentSettings
from decnet_core.endpoints import Endpoint, listen
from decnet_core.enrolment import JoinToken
from decnet_core.fleet import AgentStatus, Shard, ShardReport
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import LiveIdentity
from tests.swarm.simulated import SimulatedAgent

LONG_SECS = 60.0
"""For a level that is reached within a second when nothing is wrong."""


class CountingAgent(SimulatedAgent):
    """Counts how often it was asked how it is. A decky that is named by `dies` ends as soon as it was started."""

    statuses = 0
    dies: str | None = None

    async def status(self) -> AgentStatus:
        self.statuses += 1
        return await super().status()

    async def apply(self, shard: Shard) -> ShardReport:
        report = await super().apply(shard)
        if self.dies is not None:
            self.end(self.dies)
        return report


@dataclass
class Worker:
    """One worker: `start` and `stop` its server as often as is wanted."""

    name: str
    port: int
    identity: LiveIdentity
    agent: CountingAgent
    _task: asyncio.Task[None] | None = field(default=None)

    @classmethod
    async def join(cls, name: str, controller: httpx.AsyncClient, folder: Path) -> Worker:
        """Enrol it and let it join; it does not serve yet."""
        answer = await controller.post("/hosts", json={"name": name})
        assert answer.status_code == 201, answer.text
        token = JoinToken.parse(answer.json()["token"])
        with listen(Endpoint("127.0.0.1", 0), "agent-address") as probe:
            port = int(probe.getsockname()[1])
        settings = AgentSettings.load(data_directory=folder / name, agent_address=f"127.0.0.1:{port}")
        await asyncio.to_thread(joining.join, settings, token)
        identity = LiveIdentity.open(KeyStore(settings.identities_directory), Role.AGENT, datetime.now(UTC))
        return cls(name, port, identity, CountingAgent(name))

    async def start(self) -> None:
        listening = listen(Endpoint("127.0.0.1", self.port), "agent-address")
        up = asyncio.Event()
        serving = http_server.serve(http.build(self.agent), listening, self.identity.server_context(), up.set)
        self._task = asyncio.create_task(serving)
        async with asyncio.timeout(LONG_SECS):
            await up.wait()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None


async def until(reached: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(LONG_SECS):
        while True:
            now = reached()
            if now if isinstance(now, bool) else await now:
                return
            await asyncio.sleep(0.02)
