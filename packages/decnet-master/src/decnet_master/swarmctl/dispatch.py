"""Send shards to workers: a bounded number at once, and each one's failure its own.

A worker that fails takes nothing from the others, and the desired state stays what it is: the next deploy sends it
again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from decnet_core.errors import DecnetError, NotFound
from decnet_core.fleet import DeckyPhase, Shard, ShardReport
from decnet_core.logs import shown
from decnet_master.store import Host, Store
from decnet_master.swarmctl.agent_client import AgentClient, Worker
from decnet_master.swarmctl.messages import HostCheck, WorkerResult

AT_ONCE = 16
"""Workers that are spoken to at the same time: enough to hide their delays, few enough for one process."""

MAX_REASON_CHARS = 200
"""Of one decky's reason in the sentence about its worker; the report has it whole."""

log = structlog.get_logger()

Item = TypeVar("Item")
Result = TypeVar("Result")


class Dispatcher:
    """Talks to many agents at once."""

    def __init__(self, agents: AgentClient, store: Store) -> None:
        self._agents = agents
        self._store = store

    async def apply(self, hosts: Sequence[Host], shards: dict[str, Shard], *, removing: bool) -> list[WorkerResult]:
        """Send each host its shard and record what it reports.

        Args:
            hosts: those that are meant, active.
            shards: by host name.
            removing: whether the deckies became fewer.
        """

        async def one(host: Host) -> WorkerResult:
            shard = shards[host.name]
            try:
                worker = _worker(host)
                send = self._agents.teardown if removing else self._agents.deploy
                report = await send(worker, shard)
                await self._store.fleet.record(report)
                await self._store.hosts.seen(host.name, host.version or "", datetime.now(UTC))
            except DecnetError as error:
                log.warning("shard.failed", host=host.name, generation=shard.generation, reason=error.message)
                return WorkerResult(host=host.name, ok=False, error=error.message, advice=error.advice)
            log.info("shard.sent", host=host.name, generation=shard.generation, ok=report.ok)
            return _result(report)

        return await _each(hosts, one)

    async def check(self, hosts: Sequence[Host]) -> list[HostCheck]:
        """Ask each host how it is, and remember those that answered."""

        async def one(host: Host) -> HostCheck:
            try:
                status = await self._agents.status(_worker(host))
                await self._store.hosts.seen(host.name, status.version, datetime.now(UTC))
            except DecnetError as error:
                return HostCheck(host=host.name, ok=False, error=error.message, advice=error.advice)
            return HostCheck(
                host=host.name,
                ok=True,
                version=status.version,
                generation=status.generation,
                deckies=len(status.deckies),
                engine=status.engine,
                taps=status.taps,
            )

        return await _each(hosts, one)


async def _each(items: Sequence[Item], one: Callable[[Item], Awaitable[Result]]) -> list[Result]:
    """Call for every item, a bounded number at once; the results keep the items' order."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def bounded(item: Item) -> Result:
        async with turn:
            return await one(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(bounded(item)) for item in items]
    return [task.result() for task in tasks]


def _worker(host: Host) -> Worker:
    if host.address is None or host.agent_port is None:
        raise NotFound(f"No address is known of {host.name}", "Let it join again: `decnet-agent join TOKEN`.")
    return Worker(host.name, host.address, host.agent_port)


def _result(report: ShardReport) -> WorkerResult:
    if report.ok:
        return WorkerResult(host=report.host, ok=True, report=report)
    failed = [decky for decky in report.deckies if decky.phase is not DeckyPhase.RUNNING]
    reasons = "; ".join(f"{decky.name}: {shown(decky.error or decky.phase, MAX_REASON_CHARS)}" for decky in failed[:3])
    more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
    return WorkerResult(
        host=report.host,
        ok=False,
        report=report,
        error=f"{len(failed)} of {len(report.deckies)} deckies do not run ({reasons}{more})",
        advice="Correct what the worker names, then deploy again with --count 0.",
    )
