"""What every worker did since it was last written down: counts and moments, for people and alarms.

The connections tell the ledger what happens, `reporter` writes down what changed. One entry for each worker that ever
connected, which enrolment bounds; of a worker's streams those with something unwritten.

`entries` changes nothing; `written` takes off what was written. So a report that failed is simply made again later,
with what happened meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from decnet_core.peer import Peer
from decnet_master.store.doorbook import StreamReport, WorkerReport

PLAIN_STREAM = "plain"
"""All streams of third-party senders under one name: each connection has a new one, and none is ever resumed."""


class Ledger:
    """Told by the connections, on the loop; `now` is the wall clock, in seconds since 1970 UTC."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._workers: dict[str, _Worker] = {}

    def connected(self, peer: Peer, certificate_ends_at: datetime | None) -> None:
        """Note a connection that may ship."""
        now = self._now()
        worker = self._of(peer.identity.host, now)
        if not worker.open:
            worker.changed_at = now
        worker.open += 1
        worker.connections += 1
        worker.address, worker.certificate_ends_at, worker.heard_at = peer.address, certificate_ends_at, now
        worker.changes += 1

    def disconnected(self, host: str) -> None:
        """Note that a connection that was `connected` ended."""
        worker = self._workers[host]
        worker.open -= 1
        if not worker.open:
            worker.changed_at = self._now()
            worker.changes += 1

    def heard(self, host: str) -> None:
        """Note that bytes came."""
        worker = self._workers.get(host)
        if worker is not None:
            worker.heard_at = self._now()
            worker.changes += 1

    def resumed(self, host: str, stream: str, offset: int) -> None:
        """Note which stream a worker ships now."""
        worker = self._of(host, self._now())
        worker.stream = stream
        worker.changes += 1
        worker.on(stream, offset)

    def durable(self, host: str, stream: str, end: int, lines: int, size_bytes: int) -> None:
        """Note a block that is durable; one without lines is a skip."""
        now = self._now()
        worker = self._of(host, now)
        for counts in (worker, worker.on(stream, end)):
            counts.lines += lines
            counts.bytes += size_bytes
            if lines:
                counts.line_at = now
            else:
                counts.skips += 1
        worker.changes += 1

    def acknowledged(self, host: str, stream: str, offset: int) -> None:
        """Note that the worker was told what is durable."""
        now = self._now()
        worker = self._of(host, now)
        worker.acked_at = worker.on(stream, offset).acked_at = now
        worker.changes += 1

    def rejected(self, host: str, *, is_gap: bool) -> None:
        """Note a block that the journal refused: behind its stream's end (a gap) or before it (a repeat)."""
        worker = self._of(host, self._now())
        if is_gap:
            worker.gaps += 1
        else:
            worker.repeats += 1
        worker.changes += 1

    def refused(self, host: str) -> None:
        """Note that a connection of a known worker was refused or shut out."""
        worker = self._workers.get(host)
        if worker is not None:
            worker.refusals += 1
            worker.changes += 1

    def entries(self) -> tuple[list[WorkerReport], list[StreamReport]]:
        """List what is unwritten; ask again only after `written`, or in its stead."""
        workers = [(host, worker) for host, worker in self._workers.items() if worker.changes]
        for _, worker in workers:
            worker.told = worker.changes
        return (
            [worker.report(host) for host, worker in workers],
            [
                one.report(host, name, worker.heard_at)
                for host, worker in workers
                for name, one in worker.streams.items()
            ],
        )

    def written(self, workers: Sequence[WorkerReport], streams: Sequence[StreamReport]) -> None:
        """Forget what `entries` gave: it is in the database."""
        for told in streams:
            one = self._workers[told.host].streams[told.stream]
            one.take_off(told)
        for row in workers:
            worker = self._workers[row.host]
            worker.take_off(row)
            worker.connections -= row.connections
            worker.gaps -= row.gaps
            worker.repeats -= row.repeats
            worker.refusals -= row.refusals
            worker.changes -= worker.told
            if not worker.changes:
                worker.streams.clear()

    def _of(self, host: str, now: float) -> _Worker:
        worker = self._workers.get(host)
        if worker is None:
            worker = self._workers[host] = _Worker(now)
        return worker


class _Counts:
    """What a worker and a stream have in common: counts since the last report, moments."""

    __slots__ = ("acked_at", "bytes", "line_at", "lines", "skips")

    def __init__(self) -> None:
        self.lines = self.bytes = self.skips = 0
        self.line_at: float | None = None
        self.acked_at: float | None = None

    def take_off(self, told: WorkerReport | StreamReport) -> None:
        self.lines -= told.lines
        self.bytes -= told.bytes
        self.skips -= told.skips


class _Stream(_Counts):
    __slots__ = ("durable_offset",)

    def __init__(self) -> None:
        super().__init__()
        self.durable_offset = 0

    def report(self, host: str, name: str, heard_at: float) -> StreamReport:
        return StreamReport(
            host=host,
            stream=name,
            durable_offset=self.durable_offset,
            lines=self.lines,
            bytes=self.bytes,
            skips=self.skips,
            heard_at=_moment(heard_at),
            line_at=_moment_or_none(self.line_at),
            acked_at=_moment_or_none(self.acked_at),
        )


class _Worker(_Counts):
    __slots__ = (
        "address",
        "certificate_ends_at",
        "changed_at",
        "changes",
        "connections",
        "gaps",
        "heard_at",
        "open",
        "refusals",
        "repeats",
        "stream",
        "streams",
        "told",
    )

    def __init__(self, now: float) -> None:
        super().__init__()
        self.open = self.connections = self.gaps = self.repeats = self.refusals = self.changes = self.told = 0
        self.changed_at = self.heard_at = now
        self.stream: str | None = None
        self.streams: dict[str, _Stream] = {}
        self.address = ""
        self.certificate_ends_at: datetime | None = None

    def on(self, stream: str, offset: int) -> _Stream:
        """Return the stream's counts, its offset moved."""
        one = self.streams.get(stream)
        if one is None:
            one = self.streams[stream] = _Stream()
        one.durable_offset = max(one.durable_offset, offset)
        return one

    def report(self, host: str) -> WorkerReport:
        return WorkerReport(
            host=host,
            connected=self.open > 0,
            changed_at=_moment(self.changed_at),
            stream=self.stream,
            address=self.address,
            certificate_ends_at=self.certificate_ends_at,
            heard_at=_moment(self.heard_at),
            line_at=_moment_or_none(self.line_at),
            acked_at=_moment_or_none(self.acked_at),
            lines=self.lines,
            bytes=self.bytes,
            skips=self.skips,
            connections=self.connections,
            gaps=self.gaps,
            repeats=self.repeats,
            refusals=self.refusals,
        )


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _moment_or_none(at: float | None) -> datetime | None:
    return None if at is None else _moment(at)
