"""What the master asks the agents on the workers."""

from __future__ import annotations

from collections.abc import Callable

from decnet_core.fleet import AgentStatus, Health, Shard, ShardReport
from decnet_core.identity import Role
from decnet_master.artifact_shelf import MAX_BYTES
from decnet_master.swarmctl.worker_calls import IsCurrent, Tls, Worker, WorkerCalls, misfit

__all__ = ["AgentClient", "Worker"]

ASK_SECS = 15.0
"""A status answer, in all."""

HEALTH_SECS = 8.0
"""Whether it is there, in all: an agent that builds images answers this at once."""

APPLY_SECS = 15 * 60.0
"""A shard, in all: a worker's first may have to build an image, which took up to five minutes on a small machine."""

ARTIFACT_SECS = 600.0
"""The largest artifact at 1 Mbit/s, in all."""


class AgentClient:
    """Calls agents; every call raises as `WorkerCalls.call` does."""

    def __init__(self, tls: Tls, is_current: IsCurrent) -> None:
        self._calls = WorkerCalls(Role.AGENT, tls, is_current)

    async def health(self, worker: Worker) -> Health:
        """Ask whether the agent is there."""
        return await self._calls.call(worker, "/health", None, answer=Health, total_secs=HEALTH_SECS)

    async def status(self, worker: Worker) -> AgentStatus:
        """Ask what runs there."""
        status = await self._calls.call(worker, "/status", None, answer=AgentStatus, total_secs=ASK_SECS)
        if status.host != worker.name:
            raise misfit(worker, f"says that it is {status.host}")
        return status

    async def deploy(self, worker: Worker, shard: Shard) -> ShardReport:
        """Send all that the worker shall run; raises Conflict also when it knows something newer."""
        return await self._apply(worker, "/deploy", shard)

    async def teardown(self, worker: Worker, shard: Shard) -> ShardReport:
        """Send a shard that holds fewer deckies than before; raises as `deploy` does."""
        return await self._apply(worker, "/teardown", shard)

    async def artifact(self, worker: Worker, sha256: str, into: Callable[[bytes], None]) -> None:
        """Have a content sent that the worker keeps; raises as `WorkerCalls.fetch` does. Who asks checks its hash."""
        path = f"/artifacts/{sha256}"
        await self._calls.fetch(worker, path, into, total_secs=ARTIFACT_SECS, max_bytes=MAX_BYTES)

    async def _apply(self, worker: Worker, path: str, shard: Shard) -> ShardReport:
        report = await self._calls.call(worker, path, shard, answer=ShardReport, total_secs=APPLY_SECS)
        if report.host != worker.name or report.generation != shard.generation:
            raise misfit(worker, "reported on another shard")
        return report
