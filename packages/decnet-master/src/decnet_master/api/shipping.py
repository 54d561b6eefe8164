"""Who ships what: each worker and its streams, the journal, and what waits for the ingester.

The listener writes it down every five seconds (`decnet_master.store.doorbook`), so the figures are as old as
`listener.reported_at` says. Counts go on over its restarts; offsets are bytes in a stream, which is one file of the
worker's log.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter

from decnet_core.fleet import Contract
from decnet_master.store import Store
from decnet_master.store.doorbook import ListenerState
from decnet_master.store.shipping import Overview, WorkerShipping


class StreamView(Contract):
    """One stream of a worker."""

    stream: str
    durable_offset: int
    lines: int
    bytes: int
    skips: int
    heard_at: datetime
    line_at: datetime | None
    acked_at: datetime | None


class WorkerView(Contract):
    """One worker; `connected` or not since `changed_at`, silent (nothing comes) since `silent_since`.

    `gaps` and `repeats` are blocks that the journal refused because they began behind or before the stream's end;
    `skips` are lines that the worker declared not to send; `reconnects` counts connections after the first.
    """

    worker: str
    should_ship: bool
    connected: bool
    changed_at: datetime | None
    silent_since: datetime | None
    heard_at: datetime | None
    line_at: datetime | None
    acked_at: datetime | None
    lines: int
    bytes: int
    skips: int
    gaps: int
    repeats: int
    refusals: int
    reconnects: int
    address: str | None
    certificate_ends_at: datetime | None
    stream: str | None
    streams: tuple[StreamView, ...]


class ListenerView(Contract):
    """The listener and its journal; `listening` when it reported just now, `stalled` says why nothing is taken."""

    listening: bool
    started_at: datetime
    reported_at: datetime
    journal_bytes: int
    journal_quota_bytes: int
    disk_free_bytes: int
    disk_min_free_bytes: int
    stalled: str | None
    connections: int
    accepted: int
    handshakes_refused: int
    refused: int
    superseded: int
    protocol_errors: int


class BacklogView(Contract):
    """What is in the journal and not in the database; `waits_since`: the ingester takes none of it since then."""

    lines: int
    bytes: int
    waits_since: datetime | None


class ShippingView(Contract):
    """All of it; no listener and no backlog while none has ever reported."""

    listener: ListenerView | None
    backlog: BacklogView | None
    workers: tuple[WorkerView, ...]


def router(store: Store) -> APIRouter:
    """Build the room's routes."""
    routes = APIRouter()

    @routes.get("/shipping")
    async def shipping() -> ShippingView:
        return view_of(await store.shipping.overview(datetime.now(UTC)))

    return routes


def view_of(overview: Overview) -> ShippingView:
    """Show what the store knows."""
    state = overview.listener
    return ShippingView(
        listener=None if state is None else _listener(state, listening=overview.listening),
        backlog=None
        if state is None
        else BacklogView(lines=state.backlog_lines, bytes=state.backlog_bytes, waits_since=state.waits_since),
        workers=tuple(map(_worker, overview.workers)),
    )


def _worker(worker: WorkerShipping) -> WorkerView:
    values: dict[str, Any] = asdict(worker)
    connections = values.pop("connections")
    return WorkerView(worker=values.pop("host"), reconnects=max(0, connections - 1), **values)


def _listener(state: ListenerState, *, listening: bool) -> ListenerView:
    return ListenerView(
        listening=listening,
        started_at=state.started_at,
        reported_at=state.reported_at,
        journal_bytes=state.journal_bytes,
        journal_quota_bytes=state.quota_bytes,
        disk_free_bytes=state.free_bytes,
        disk_min_free_bytes=state.min_free_bytes,
        stalled=state.stalled,
        connections=state.connections,
        accepted=state.accepted,
        handshakes_refused=state.handshakes_refused,
        refused=state.refused,
        superseded=state.superseded,
        protocol_errors=state.protocol_errors,
    )
