"""One line of shards for each worker: what it is doing, and the newest that waits for it.

A worker does one thing at a time, and what waits is always the newest desired state: an older one that was not begun is
never sent. So a worker that takes long, or hangs, delays its own shards and nobody else's. While it works it is asked
for a sign of life; one that gives none is given up long before the whole time of a shard is over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from decnet_core.errors import Conflict, DecnetError, Unavailable
from decnet_core.fleet import Shard, ShardReport
from decnet_master.store import Host

PROBE_SECS = 10.0
"""Between two questions for a sign of life."""

MISSES = 3
"""So many in a row unanswered, and a worker counts as hanging: after about a minute with what a question may take."""


@dataclass(eq=False)
class Job:
    """One shard for one worker; `done` holds the report, or the error that there was instead.

    `mending` says that nobody asked for it: it sends again what the worker should have. `is_there` says that the worker
    has it, as far as is known: who sends it says otherwise while it waits to be sent, and when it is answered.
    """

    host: Host
    shard: Shard
    removing: bool
    mending: bool = False
    is_there: bool = True
    done: asyncio.Future[ShardReport] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


_SHOW = "`decnet-master deckies` shows what became of it."

Send = Callable[[Job], Awaitable[ShardReport]]
Probe = Callable[[Host], Awaitable[object]]


class Lines:
    """The lines of all workers.

    Args:
        send: sends a job's shard and records the report.
        probe: asks a worker for a sign of life.
        probe_secs: how often.
    """

    def __init__(self, send: Send, probe: Probe, probe_secs: float = PROBE_SECS) -> None:
        self._send = send
        self._probe = probe
        self._probe_secs = probe_secs
        self._lines: dict[str, _Line] = {}

    def busy(self) -> frozenset[str]:
        """Name the workers that something was sent to and that have not answered."""
        return frozenset(self._lines)

    def working_on(self, host: str) -> int | None:
        """Return the generation that a worker is busy with."""
        line = self._lines.get(host)
        return None if line is None or line.current is None else line.current.shard.generation

    def is_mended(self, host: str) -> bool:
        """Tell whether a worker is busy with what nobody asked for."""
        line = self._lines.get(host)
        return line is not None and line.current is not None and line.current.mending

    def put(self, job: Job) -> bool:
        """Stand a job in its worker's line; return whether it is the first there. The newest generation waits."""
        line = self._lines.get(job.host.name)
        if line is not None:
            is_newest = line.newest <= job.shard.generation
            older = line.waiting if is_newest else job
            if is_newest:
                line.waiting = job
            if older is not None:
                _give_up(older, Conflict("A newer state of the fleet took its place", _SHOW))
            return False
        line = self._lines[job.host.name] = _Line(waiting=job)
        line.task = asyncio.get_running_loop().create_task(self._work(line), name="line")
        line.task.add_done_callback(lambda _: self._ended(job.host.name, line))
        return True

    def drop(self, host: str) -> None:
        """Give up what a worker does and what waits for it: it is spoken to no more."""
        line = self._lines.get(host)
        if line is None or line.task is None:
            return
        line.dropped = True
        line.task.cancel()

    async def close(self) -> None:
        """Give up everything."""
        tasks = [line.task for line in self._lines.values() if line.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, line: _Line) -> None:
        while line.waiting is not None:
            job, line.waiting = line.waiting, None
            line.current = job
            try:
                report = await self._watched(job)
            except DecnetError as error:
                _give_up(job, error)
            else:
                if not job.done.done():
                    job.done.set_result(report)

    def _ended(self, host: str, line: _Line) -> None:
        """Forget a line; a callback, because a task that is cancelled before it begins cleans nothing up itself."""
        del self._lines[host]
        why = f"{host} was decommissioned meanwhile" if line.dropped else "The controller was stopped meanwhile"
        for left in (line.current, line.waiting):
            if left is not None:
                _give_up(left, Unavailable(why, "Deploy again."))

    async def _watched(self, job: Job) -> ShardReport:
        sending = asyncio.ensure_future(self._send(job))
        misses = 0
        try:
            while True:
                done, _ = await asyncio.wait({sending}, timeout=self._probe_secs)
                if done:
                    return sending.result()
                if not job.is_there:  # it cannot answer for what it has not
                    misses = 0
                    continue
                try:
                    await self._probe(job.host)
                    misses = 0
                except Unavailable:
                    misses += 1
                if misses >= MISSES and not sending.done():
                    raise Unavailable(
                        f"{job.host.name} stopped answering while it worked on generation {job.shard.generation}",
                        "Look into its agent's log; `decnet-master deploy --count 0` sends again what is missing.",
                    )
        finally:
            if not sending.done():
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError, DecnetError):
                    await sending


@dataclass
class _Line:
    waiting: Job | None
    current: Job | None = None
    task: asyncio.Task[None] | None = None
    dropped: bool = False

    @property
    def newest(self) -> int:
        """The newest generation in the line."""
        return max((job.shard.generation for job in (self.current, self.waiting) if job is not None), default=0)


def _give_up(job: Job, error: DecnetError) -> None:
    if not job.done.done():
        job.done.set_exception(error)
        job.done.exception()  # nobody may wait for it: that is no fault
