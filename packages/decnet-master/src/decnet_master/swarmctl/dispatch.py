"""Send shards to workers: a bounded number at once, and each one's failure its own.

A worker that fails takes nothing from the others, and the desired state stays what it is: the next deploy sends it
again. A worker that is still busy with an earlier shard is sent the newest when it is ready (`lines`); a command waits
for it only for a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

import structlog

from decnet_core.errors import DecnetError, NotFound
from decnet_core.fleet import AgentStatus, DeckyPhase, Shard, ShardReport
from decnet_core.logs import shown
from decnet_master.store import Host, Store
from decnet_master.swarmctl.agent_client import AgentClient, Worker
from decnet_master.swarmctl.lines import PROBE_SECS, Job, Lines
from decnet_master.swarmctl.messages import WorkerResult
from decnet_master.swarmctl.recording import Recorder

SENT_AT_ONCE = 64
"""Shards under way at the same time: enough that workers which build images do not keep the others waiting."""

BUSY_SECS = 5.0
"""How long a command waits for a worker that is busy with an earlier one."""

MAX_REASON_CHARS = 200
"""Of one decky's reason in the sentence about its worker; the report has it whole."""

log = structlog.get_logger()


class Dispatcher:
    """Talks to many agents at once."""

    def __init__(self, agents: AgentClient, store: Store, *, probe_secs: float = PROBE_SECS) -> None:
        self._agents = agents
        self._recorder = Recorder(store)
        self._sending = asyncio.Semaphore(SENT_AT_ONCE)
        self._lines = Lines(self._send, lambda host: agents.health(_worker(host)), probe_secs)
        self._answered_secs: dict[str, float] = {}

    @property
    def busy(self) -> frozenset[str]:
        """The workers that have not answered to an earlier shard."""
        return self._lines.busy()

    def drop(self, host: str) -> None:
        """Speak to a worker no more: what it was sent is given up."""
        self._lines.drop(host)
        self._answered_secs.pop(host, None)

    async def close(self) -> None:
        """Give up everything that is under way."""
        await self._lines.close()
        await self._recorder.close()

    def offer(self, host: Host, shard: Shard) -> Job | None:
        """Send a worker its shard, unless it is busy; return None then."""
        job = Job(host, shard, removing=False, mending=True)
        if host.name in self.busy:
            return None
        self._lines.put(job)
        return job

    def sent_since(self, host: str, at_secs: float) -> bool:
        """Tell whether a worker was busy with a shard at a time of the loop's clock, or has been since."""
        return host in self.busy or self._answered_secs.get(host, 0.0) >= at_secs

    async def status(self, host: Host) -> AgentStatus:
        """Ask one worker how it is; raises as `AgentClient.status` does, and NotFound when no address is known."""
        return await self._agents.status(_worker(host))

    async def artifact(self, host: Host, sha256: str, into: Callable[[bytes], None]) -> None:
        """Have a worker send what it keeps; raises as `AgentClient.artifact` does, and NotFound without an address."""
        await self._agents.artifact(_worker(host), sha256, into)

    async def apply(
        self, hosts: Sequence[Host], shards: dict[str, Shard], *, removing: bool, unasked: Collection[str] = ()
    ) -> list[WorkerResult]:
        """Send each host its shard and record what it reports.

        Args:
            hosts: those that are meant, active.
            shards: by host name.
            removing: whether the deckies became fewer.
            unasked: of those, the ones that this command does not change: when they are busy, they are sent the shard
                later, and there is no result of them.
        """

        async def one(host: Host) -> WorkerResult | None:
            shard = shards[host.name]
            job = Job(host, shard, removing)
            if not self._lines.put(job):
                if host.name in unasked:
                    return None
                # What the controller mends by itself is in nobody's way: the command follows it, however long it takes.
                patience_secs = None if self._lines.is_mended(host.name) else BUSY_SECS
                if not (await asyncio.wait({job.done}, timeout=patience_secs))[0]:
                    return _still_busy(host, self._lines.working_on(host.name), shard)
            try:
                # Shielded: a command that is given up does not take the report from the line.
                report = await asyncio.shield(job.done)
            except DecnetError as error:
                log.warning("shard.failed", host=host.name, generation=shard.generation, reason=error.message)
                return WorkerResult(host=host.name, ok=False, error=error.message, advice=error.advice)
            return _result(report)

        results = await asyncio.gather(*map(one, hosts))
        return [result for result in results if result is not None]

    async def _send(self, job: Job) -> ShardReport:
        worker = _worker(job.host)
        try:
            job.is_there = False
            async with self._sending:
                job.is_there = True
                send = self._agents.teardown if job.removing else self._agents.deploy
                report = await send(worker, job.shard)
        finally:
            job.is_there = False
            self._answered_secs[job.host.name] = asyncio.get_running_loop().time()
        await self._recorder.record(report)
        log.info("shard.sent", host=job.host.name, generation=report.generation, ok=report.ok)
        return report


def _worker(host: Host) -> Worker:
    if host.address is None or host.agent_port is None:
        raise NotFound(f"No address is known of {host.name}", "Let it join again: `decnet-agent join TOKEN`.")
    return Worker(host.name, host.address, host.agent_port)


def _still_busy(host: Host, generation: int | None, shard: Shard) -> WorkerResult:
    with_what = "with an earlier command" if generation is None else f"with generation {generation}"
    return WorkerResult(
        host=host.name,
        ok=False,
        error=f"{host.name} is still busy {with_what}; it is sent generation {shard.generation} after it",
        advice="`decnet-master deckies` shows what became of it.",
    )


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
