"""Whether the API is there, and whether it can do what it is for.

`/livez`: the process answers. `/readyz`: it can serve, that is, the database answers; 503 otherwise. Both are open
and say nothing more. `/api/v1/health` tells who is logged in what stands behind it: the database and the evidence's way
into it (`decnet_master.findings`) are critical, deckies that do not run and workers that are silent only degrade.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

import decnet_master
from decnet_core.errors import Unavailable
from decnet_core.fleet import Contract, DeckyPhase
from decnet_master.findings import look
from decnet_master.store import HostStatus, Store


class Problem(Contract):
    """One thing that is wrong; a grave one means that evidence is not being stored as it should be."""

    part: str
    grave: bool
    message: str
    advice: str


class Health(Contract):
    """What stands behind the API; `status` is the worst of it."""

    status: Literal["ok", "degraded", "failed"]
    version: str
    database: Literal["ok", "failed"]
    active_hosts: int = 0
    deckies: int = 0
    deckies_running: int = 0
    newest_event: int = 0
    listener: Literal["ok", "failed", "unknown"] = "unknown"
    backlog_lines: int = 0
    dead_letters_recent: int = 0
    silent_workers: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def router(store: Store, dead_letter_alarm: int) -> tuple[APIRouter, APIRouter]:
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
        report = await _report(store, dead_letter_alarm)
        return JSONResponse(report.model_dump(), status_code=503 if report.status == "failed" else 200)

    return open_to_all, protected


async def _report(store: Store, dead_letter_alarm: int) -> Health:
    version = decnet_master.__version__
    try:
        hosts = [host for host in await store.hosts.list() if host.status is HostStatus.ACTIVE]
        deckies = await store.fleet.current()
        newest = await store.events.latest_seq()
        seen = await look(store, dead_letter_alarm, datetime.now(UTC))
    except Unavailable:
        return Health(status="failed", version=version, database="failed")
    listener = seen.overview.listener
    problems = tuple(
        Problem(part=one.part, grave=one.grave, message=one.message, advice=one.advice) for one in seen.wrong
    )
    running = sum(decky.known_phase is DeckyPhase.RUNNING for decky in deckies)
    return Health(
        status=_status(problems, all_run=running == len(deckies)),
        version=version,
        database="ok",
        active_hosts=len(hosts),
        deckies=len(deckies),
        deckies_running=running,
        newest_event=newest,
        listener="unknown" if listener is None else "ok" if seen.overview.listening else "failed",
        backlog_lines=0 if listener is None else listener.backlog_lines,
        dead_letters_recent=seen.dead_letters,
        silent_workers=tuple(one.host for one in seen.overview.workers if one.silent_since is not None),
        problems=problems,
    )


def _status(problems: tuple[Problem, ...], *, all_run: bool) -> Literal["ok", "degraded", "failed"]:
    if any(problem.grave for problem in problems):
        return "failed"
    return "ok" if all_run and not problems else "degraded"
