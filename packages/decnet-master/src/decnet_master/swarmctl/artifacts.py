"""Artifacts over HTTP: what workers keep, by what they told of it; fetch one, and give out what was fetched."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Path, Query
from starlette.responses import FileResponse

from decnet_core.errors import DecnetError, NotFound, RetryLater
from decnet_core.events import EventType
from decnet_master.artifact_shelf import ArtifactShelf
from decnet_master.store import Store
from decnet_master.swarmctl.artifact_messages import ArtifactKept, ArtifactList, ArtifactView
from decnet_master.swarmctl.dispatch import Dispatcher

FETCHED_AT_ONCE = 4

Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]

log = structlog.get_logger()


def router(store: Store, dispatcher: Dispatcher, shelf: ArtifactShelf) -> APIRouter:
    """Build the room's routes."""
    routes = APIRouter(prefix="/artifacts")
    places = asyncio.Semaphore(FETCHED_AT_ONCE)

    @routes.get("")
    async def artifacts(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        decky: Annotated[str | None, Query(max_length=256)] = None,
    ) -> ArtifactList:
        rows = await store.artifacts.page(limit=limit, decky=decky)
        return ArtifactList(artifacts=tuple(_view(row, shelf) for row in rows))

    @routes.post("/{sha256}/fetch")
    async def fetch(sha256: Sha256) -> ArtifactKept:
        if shelf.has(sha256):
            return ArtifactKept(sha256=sha256, size_bytes=shelf.find(sha256).stat().st_size, host=None)
        if places.locked():
            raise RetryLater(f"{FETCHED_AT_ONCE} artifacts are being fetched already", "Try again in a moment.")
        async with places:
            return await _fetch(store, dispatcher, shelf, sha256)

    @routes.get("/{sha256}")
    async def content(sha256: Sha256) -> FileResponse:
        return FileResponse(shelf.find(sha256), media_type="application/octet-stream")

    return routes


async def _fetch(store: Store, dispatcher: Dispatcher, shelf: ArtifactShelf, sha256: str) -> ArtifactKept:
    """Ask the workers that keep a content, one after another, until one gives it."""
    holders = await store.artifacts.holders(sha256)
    if not holders:
        raise NotFound(
            "No worker has told of such an artifact", "`decnet-master artifacts list` shows which there are."
        )
    known = {host.name: host for host in await store.hosts.list() if host.status == "active"}
    failure: DecnetError = NotFound(
        f"The workers that keep it are no longer of this swarm: {', '.join(holders[:3])}", "Fetch it from their disks."
    )
    for name in holders:
        if name not in known:
            continue
        try:
            with shelf.incoming(sha256) as incoming:
                await dispatcher.artifact(known[name], sha256, incoming.write)
        except DecnetError as error:
            log.warning("artifact.failed", host=name, sha256=sha256, reason=error.message)
            failure = error
        else:
            log.info("artifact.fetched", host=name, sha256=sha256, size_bytes=incoming.size_bytes)
            return ArtifactKept(sha256=sha256, size_bytes=incoming.size_bytes, host=name)
    raise failure


def _view(row: dict[str, Any], shelf: ArtifactShelf) -> ArtifactView:
    fields = row["fields"]
    is_recording = row["event_type"] == EventType.SESSION_RECORDED.value
    sha256 = str(fields.get("sha256", ""))
    size = str(fields.get("size_bytes", ""))
    return ArtifactView(
        sha256=sha256,
        kind="recording" if is_recording else "file",
        size_bytes=int(size) if size.isascii() and size.isdigit() and len(size) < 16 else 0,
        name=str(fields.get("terminal" if is_recording else "path", "")),
        at=row["at"],
        host=row["worker"],
        decky=row["decky"],
        src_ip=row["src_ip"],
        session=row["session"],
        user=fields.get("user"),
        fetched=_is_here(shelf, sha256),
    )


def _is_here(shelf: ArtifactShelf, sha256: str) -> bool:
    try:
        return shelf.has(sha256)
    except DecnetError:  # a worker's event may say anything
        return False
