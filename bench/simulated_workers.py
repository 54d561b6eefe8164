"""Many workers in one process, each with its own identities and ports: what `swarm.py` starts.

    python -m bench.simulated_workers FOLDER COUNT       (identities in FOLDER/<worker>/<role>/{key,cert,ca}.pem)

Every worker is an agent and an updater behind their own HTTP servers, each on its own loopback port over mutual TLS
with its own certificate. The updater is the real application; behind the agent's routes stands `tests.swarm.simulated`.

Its first line on standard output names each worker's ports. Then it is told what to do by words on standard input and
answers each with one line of JSON:

    serve     take the identities up and answer; answered when all are up
    shards    say how many shards were taken, when the first and the last came (monotonic clock), and what runs
    asked     say how often an agent was asked for its status so far
    end       end
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from bench.host import allow_descriptors, peak_mib
from decnet_agent.api import routes
from decnet_agent.api import server as agent_server
from decnet_core import logs
from decnet_core.daemon import Ready
from decnet_core.endpoints import Endpoint, listen
from decnet_core.fleet import AgentStatus, Shard, ShardReport
from decnet_core.identity import Role
from decnet_core.pki.tls import IdentityFiles, server_context
from decnet_updater.http import application as updater_application
from decnet_updater.http_server import serve as serve_updater
from tests.swarm.simulated import SimulatedAgent

UP_SECS = 60.0
DESCRIPTORS_EACH = 8  # two that listen, and a few connections


def identity_files(folder: Path, worker: str, role: Role) -> IdentityFiles:
    """Say where an identity lies."""
    at = folder / worker / role.value
    return IdentityFiles(at / "key.pem", at / "cert.pem", at / "ca.pem")


class _CountingAgent(SimulatedAgent):
    """A simulated agent that notes when its shards come, and how often it is asked."""

    def __init__(self, host: str, times: list[float]) -> None:
        super().__init__(host)
        self._times = times
        self.times_asked = 0

    async def status(self) -> AgentStatus:
        """Tell what runs here."""
        self.times_asked += 1
        return await super().status()

    async def apply(self, shard: Shard) -> ShardReport:
        """Run what the shard says; raises as the simulated agent does."""
        self._times.append(time.monotonic())
        return await super().apply(shard)


class SimulatedWorkers:
    """All workers of this process."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._times: list[float] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.agents = {name: _CountingAgent(name, self._times) for name in map("w{:04d}".format, range(1, count + 1))}
        self._sockets = {
            name: tuple(listen(Endpoint("127.0.0.1", 0), "agent-address") for _ in range(2)) for name in self.agents
        }

    def ports(self) -> dict[str, list[int]]:
        """Tell each worker's ports, of its agent and its updater."""
        return {name: [bound.getsockname()[1] for bound in pair] for name, pair in self._sockets.items()}

    async def serve(self) -> dict[str, Any]:
        """Take the identities up and answer from now on."""
        ready = Ready(2 * len(self.agents))
        for name, agent in self.agents.items():
            for_agent, for_updater = self._sockets[name]
            tls = server_context(identity_files(self._folder, name, Role.AGENT))
            self._start(agent_server.serve(routes.build(agent), for_agent, tls, ready.one_more))
            tls = server_context(identity_files(self._folder, name, Role.UPDATER))
            self._start(serve_updater(updater_application(name), for_updater, tls, ready))
        async with asyncio.timeout(UP_SECS):
            await ready.wait()
        return {"workers": len(self.agents), "rss_mib": peak_mib(os.getpid())}

    def shards(self) -> dict[str, Any]:
        """Tell when shards came, and what runs."""
        return {
            "shards": len(self._times),
            "first_at": min(self._times, default=None),
            "last_at": max(self._times, default=None),
            "running": sum(len(agent.running) for agent in self.agents.values()),
            "rss_mib": peak_mib(os.getpid()),
        }

    def asked(self) -> dict[str, Any]:
        """Tell how often a status was asked for."""
        return {"times": sum(agent.times_asked for agent in self.agents.values()), "at": time.monotonic()}

    def _start(self, serving: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(serving))


async def main() -> None:
    """Do what standard input says."""
    logs.configure("bench", level="error")
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    allow_descriptors(DESCRIPTORS_EACH * count + 100)
    workers = SimulatedWorkers(folder, count)
    print(json.dumps(workers.ports()), flush=True)
    while words := (await asyncio.to_thread(sys.stdin.readline)).split():
        match words:
            case ["serve"]:
                answer = await workers.serve()
            case ["shards"]:
                answer = workers.shards()
            case ["asked"]:
                answer = workers.asked()
            case _:
                break
        print(json.dumps(answer), flush=True)
    os._exit(0)  # two thousand servers would take their time to say goodbye, and nobody listens


if __name__ == "__main__":
    asyncio.run(main())
