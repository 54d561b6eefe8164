"""What the master asks the updaters on the workers."""

from __future__ import annotations

from decnet_core.fleet import Health
from decnet_core.identity import Role
from decnet_master.swarmctl.worker_calls import IsCurrent, Tls, Worker, WorkerCalls

HEALTH_SECS = 8.0
"""Whether it is there, in all."""


class UpdaterClient:
    """Calls updaters; every call raises as `WorkerCalls.call` does."""

    def __init__(self, tls: Tls, is_current: IsCurrent) -> None:
        self._calls = WorkerCalls(Role.UPDATER, tls, is_current)

    async def health(self, worker: Worker) -> Health:
        """Ask whether the updater is there, and which release it is of."""
        return await self._calls.call(worker, "/health", None, answer=Health, total_secs=HEALTH_SECS)
