"""Whether the API is there, and whether it can do what it is for.

`/livez`: the process answers. `/readyz`: it can serve, that is, the database answers; 503 otherwise. Both are open
and say nothing more. `/api/v1/health` tells who is logged in what stands behind it: the database is critical, deckies
that do not run only degrade.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

import decnet_master
from decnet_core.errors import Unavailable
from decnet_core.fleet import Contract, DeckyPhase
from decnet_master.store import HostStatus, Store


class Health(Contract):
    """What stands behind the API; `status` is the worst of it."""

    status: Literal["ok", "degraded", "failed"]
    version: str
    database: Literal["ok", "failed"]
    active_hosts: int = 0
    deckies: int = 0
    deckies_running: int = 0
    newest_event: int = 0


def router(store: Store) -> tuple[APIRouter, APIRouter]:
    """Build the room's routes: those open to all, and those that need a login."""
    open_to_all, protected = APIRouter(), APIRouter()

    @open_to_all.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @open_to_all.get("/readyz")
    async def readyz() -> dict[str, str]:
        await store.ping()
        return {"status": "ok"}

    @protected.get("/health", response_model=Health)
    async def health() -> Response:
        report = await _report(store)
        return JSONResponse(report.model_dump(), status_code=503 if report.status == "failed" else 200)

    return open_to_all, protected


async def _report(store: Store) -> Health:
    version = decnet_master.__version__
    try:
        hosts = [host for host in await store.hosts.list() if host.status is HostStatus.ACTIVE]
        deckies = await store.fleet.current()
        newest = await store.events.latest_seq()
    except Unavailable:
        return Health(status="failed", version=version, database="failed")
    running = sum(decky.phase is DeckyPhase.RUNNING for decky in deckies)
    return Health(
        status="ok" if running == len(deckies) else "degraded",
        version=version,
        database="ok",
        active_hosts=len(hosts),
        deckies=len(deckies),
        deckies_running=running,
        newest_event=newest,
    )
