"""`GET /metrics`: what /api/v1/shipping says, and what the API itself counts, for Prometheus.

Who may read. A bearer token: `metrics-token` of the configuration, or a login's. Never the loopback alone: behind a
reverse proxy everybody comes from there.

Labels are bounded: workers are enrolled by the operator, event types are those of the catalogue (what a newer worker
may call its events is `other`). No address, no user's name, nothing that an attacker chose.

Source: Prometheus' text-based exposition format, version 0.0.4.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from decnet_core.events import EventType
from decnet_master.api.access import Access
from decnet_master.api.fanout import Fanout
from decnet_master.findings import Findings, look
from decnet_master.store import Store
from decnet_master.store.doorbook import ListenerState
from decnet_master.store.shipping import WorkerShipping
from decnet_master.store.tally import OTHER_TYPE

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]


def router(
    store: Store, access: Access, fanout: Fanout, *, dead_letter_alarm: int, metrics_token: str | None
) -> APIRouter:
    """Build the room's routes, which look after themselves who asks."""
    routes = APIRouter()

    @routes.get("/metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        if not _shows(request, metrics_token):
            await access.user_of(request)
        seen = await look(store, dead_letter_alarm, datetime.now(UTC))
        page = Page()
        _of_api(page, fanout.clients, await store.shipping.counts_by_type(), seen)
        for worker in seen.overview.workers:
            _of_worker(page, worker)
        if seen.overview.listener is not None:
            _of_listener(page, seen.overview.listener, listening=seen.overview.listening)
        return Response(page.text(), media_type=CONTENT_TYPE)

    return routes


class Page:
    """A page of metrics: samples of one name stand together, whatever the order in which they are added."""

    def __init__(self) -> None:
        self._families: dict[str, list[str]] = {}

    def add(self, name: str, text: str, value: float | datetime | None, labels: Labels | None = None) -> None:
        """Add a sample; None adds nothing. A name that ends in `_total` is a counter, others are gauges."""
        if value is None:
            return
        family = self._families.setdefault(name, [])
        if not family:
            kind = "counter" if name.endswith("_total") else "gauge"
            family += (f"# HELP decnet_{name} {text}", f"# TYPE decnet_{name} {kind}")
        number = value.timestamp() if isinstance(value, datetime) else value
        family.append(f"decnet_{name}{_labels(labels or {})} {number:.17g}")

    def text(self) -> str:
        """Write the page."""
        return "".join(f"{line}\n" for family in self._families.values() for line in family)


def _shows(request: Request, metrics_token: str | None) -> bool:
    shown = request.headers.get("authorization", "").encode("latin-1", "replace")
    return metrics_token is not None and hmac.compare_digest(shown, f"Bearer {metrics_token}".encode())


def _of_api(page: Page, clients: int, counts: Mapping[str, int], seen: Findings) -> None:
    for event_type in (*EventType, OTHER_TYPE):
        page.add("events_total", "Events stored, by type", counts.get(event_type, 0), {"type": event_type})
    page.add("stream_clients", "Clients of the live stream", clients)
    page.add("dead_letters_recent", "Lines that are no event in ten minutes, up to the alarm", seen.dead_letters)
    for grave in (True, False):
        count = sum(finding.grave is grave for finding in seen.wrong)
        page.add("findings", "What health names as wrong", count, {"grave": str(grave).lower()})


def _of_worker(page: Page, worker: WorkerShipping) -> None:
    labels = {"worker": worker.host}
    samples: Iterable[tuple[str, str, float | datetime | None]] = (
        ("worker_connected", "Whether a worker's log shipper is connected", worker.connected),
        ("worker_should_ship", "Whether a worker is active and deckies are placed on it", worker.should_ship),
        ("worker_silent", "Whether a worker that should ship is silent", worker.silent_since is not None),
        ("worker_heard_timestamp_seconds", "When anything came from a worker", worker.heard_at),
        ("worker_line_timestamp_seconds", "When a line came from a worker", worker.line_at),
        ("worker_acked_timestamp_seconds", "When a worker was told that lines are durable", worker.acked_at),
        ("worker_certificate_end_timestamp_seconds", "When its certificate ends", worker.certificate_ends_at),
        ("worker_lines_total", "Lines received from a worker", worker.lines),
        ("worker_bytes_total", "Bytes of streams received from a worker", worker.bytes),
        ("worker_skips_total", "Lines that a worker declared not to send", worker.skips),
        ("worker_gaps_total", "Blocks refused because they began behind their stream's end", worker.gaps),
        ("worker_repeats_total", "Blocks refused because they began before their stream's end", worker.repeats),
        ("worker_refusals_total", "Connections of a worker that were refused", worker.refusals),
        ("worker_connections_total", "Connections of a worker", worker.connections),
    )
    for name, text, value in samples:
        page.add(name, text, value, labels)


def _of_listener(page: Page, state: ListenerState, *, listening: bool) -> None:
    samples: Iterable[tuple[str, str, float | datetime | None]] = (
        ("listener_up", "Whether the listener reported just now", listening),
        ("listener_started_timestamp_seconds", "When the listener started", state.started_at),
        ("listener_connections", "Connections open", state.connections),
        ("listener_accepted_total", "Connections accepted", state.accepted),
        ("listener_handshakes_refused_total", "Handshakes refused", state.handshakes_refused),
        ("listener_refused_total", "Connections of known peers refused", state.refused),
        ("listener_superseded_total", "Connections ended by a newer one of their stream", state.superseded),
        ("listener_protocol_errors_total", "Connections ended for what they sent", state.protocol_errors),
        ("journal_bytes", "What the journal holds", state.journal_bytes),
        ("journal_quota_bytes", "What the journal may hold", state.quota_bytes),
        ("journal_disk_free_bytes", "What the journal's disk has left", state.free_bytes),
        ("journal_disk_min_free_bytes", "What the journal leaves free on its disk", state.min_free_bytes),
        ("journal_stalled", "Whether the journal takes nothing", state.stalled is not None),
        ("backlog_lines", "Lines in the journal that are not in the database", state.backlog_lines),
        ("backlog_bytes", "Bytes in the journal that are not in the database", state.backlog_bytes),
        ("ingester_stands_since_timestamp_seconds", "Since when it takes none of what waits", state.waits_since),
    )
    for name, text, value in samples:
        page.add(name, text, value)


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
