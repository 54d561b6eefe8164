"""What the operator says of workers, over HTTP: labels and capacity. What runs stays; the next plan sees the change."""

from __future__ import annotations

import structlog
from fastapi import APIRouter

from decnet_core.fleet import MAX_DECKIES_PER_SHARD, HostName
from decnet_master.planning import Candidate
from decnet_master.store import Host, Store
from decnet_master.swarmctl.messages import CapacityRequest, LabelRequest
from decnet_master.views import HostView, host_view

log = structlog.get_logger()


def router(store: Store) -> APIRouter:
    """Build the room's routes."""
    routes = APIRouter()

    @routes.post("/hosts/{name}/labels")
    async def label(name: HostName, request: LabelRequest) -> HostView:
        host = await store.traits.label(name, request.labels, request.remove)
        log.info("host.labelled", host=name, labels=dict(host.labels))
        return host_view(host)

    @routes.post("/hosts/{name}/capacity")
    async def limit(name: HostName, request: CapacityRequest) -> HostView:
        host = await store.traits.limit(name, request.capacity)
        log.info("host.limited", host=name, capacity=host.capacity)
        return host_view(host)

    return routes


def candidate_of(host: Host) -> Candidate:
    """Show a host to the planner."""
    capacity = MAX_DECKIES_PER_SHARD if host.capacity is None else host.capacity
    return Candidate(host.name, capacity, host.labels)
