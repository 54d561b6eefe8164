"""The enrolment endpoint's part for hosts that have nothing yet.

    GET  /bootstrap.py       the script, to whoever asks: it holds no secret, and the line knows what it hashes to
    GET  /bundle             which wheels a worker of this kind is sent; wants an open join token
    GET  /wheels/{sha256}    one of them, from the disk, also from the middle; wants an open join token
    POST /seen               whether the master reaches the agent that asks; wants the agent's certificate

A token is shown as a bearer token, `<id>.<secret>`, and is not consumed: joining does that. A worker that downloads
shows it some forty times, so these have a limit of their own, beside the one of joining.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Annotated, Literal

import structlog
from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from starlette.responses import FileResponse, Response

import decnet_master
from decnet_core.enrolment import SeenReply
from decnet_core.errors import DecnetError, NotFound, TrustError
from decnet_core.identity import Role
from decnet_core.logs import shown
from decnet_core.peer import Peer, peer_in
from decnet_master.bootstrap.bundles import Bundles
from decnet_master.bootstrap.line import SCRIPT_PATH, script
from decnet_master.bootstrap.wheels import Target, Wheel, select
from decnet_master.enrolment.tokens import hash_secret
from decnet_master.problems import Unauthenticated
from decnet_master.rate_limit import RateLimit
from decnet_master.store import Store
from decnet_master.swarmctl.checking import Checker

SCRIPTS = 30
SCRIPT_EVERY_SECS = 2.0
"""The script is 28 KiB; a rack behind one address takes one each."""

DOWNLOADS = 400
DOWNLOAD_EVERY_SECS = 0.1
"""Ten workers at once behind one address, and each again within a minute if its line was cut."""

SEEN = 30
SEEN_EVERY_SECS = 2.0
"""As often as `decnet-agent seen` asks."""

_SHOWN = re.compile(r"^Bearer ([0-9a-f]{16})\.([A-Za-z0-9_-]{43})$")

log = structlog.get_logger()


class Bootstrap:
    """Answers hosts that have nothing yet."""

    def __init__(self, store: Store, bundles: Bundles, checker: Checker) -> None:
        self._store = store
        self._bundles = bundles
        self._checker = checker
        self._script = script()
        self._scripts = RateLimit(SCRIPTS, SCRIPT_EVERY_SECS)
        self._downloads = RateLimit(DOWNLOADS, DOWNLOAD_EVERY_SECS)
        self._seen = RateLimit(SEEN, SEEN_EVERY_SECS, total_factor=1000)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""

        @app.get(SCRIPT_PATH)
        async def bootstrap(request: Request) -> Response:
            self._scripts.take(_address(request))
            return Response(self._script, media_type="text/x-python")

        @app.get("/bundle")
        async def bundle(
            request: Request,
            python: Annotated[int, Query(ge=0, le=99)],
            machine: Annotated[str, Query(pattern=r"^[a-z0-9_]{1,32}$")],
            glibc: Annotated[str, Query(pattern=r"^\d{1,2}\.\d{1,4}$")],
            part: Annotated[list[Literal["agent", "logship", "updater"]], Query(min_length=1, max_length=3)],
        ) -> dict[str, object]:
            major, minor = map(int, glibc.split("."))
            target = Target(minor=python, machine=machine, glibc=(major, minor))
            try:
                host = await self._holder(request)
                manifest = await asyncio.to_thread(self._bundles.load, decnet_master.__version__)
                chosen = select(manifest.wheels, target, part)
            except DecnetError as error:
                log.warning("bundle.refused", address=_address(request), target=str(target), reason=error.message)
                raise
            log.info("bundle.offered", host=host, address=_address(request), target=str(target), wheels=len(chosen))
            return {"version": manifest.version, "wheels": [_entry(wheel) for wheel in chosen]}

        @app.get("/wheels/{sha256}")
        async def wheel(request: Request, sha256: Annotated[str, InPath(pattern=r"^[0-9a-f]{64}$")]) -> Response:
            await self._holder(request)
            path = self._bundles.path(sha256)
            if not await asyncio.to_thread(path.is_file):
                raise NotFound("This master has no such wheel any more", "Run the same line again.")
            return FileResponse(path, media_type="application/octet-stream")

        @app.post("/seen")
        async def seen(request: Request) -> SeenReply:
            peer = peer_in(request.scope)
            self._seen.take(peer.fingerprint)
            try:
                return await self._call_back(peer)
            except TrustError as error:
                log.warning("peer.refused", address=_address(request), reason=error.message)
                raise

    async def _holder(self, request: Request) -> str:
        """Return the host that the token shown is for."""
        self._downloads.take(_address(request))
        token = _SHOWN.match(request.headers.get("authorization", ""))
        if token is None:
            raise Unauthenticated(
                "This wants a join token", "Paste the whole line of `decnet-master swarm enroll --bootstrap`."
            )
        return await self._store.tokens.holder(token[1], hash_secret(token[2]), datetime.now(UTC))

    async def _call_back(self, peer: Peer) -> SeenReply:
        now = datetime.now(UTC)
        is_current = await self._store.certificates.is_current(peer.identity, peer.fingerprint, now)
        if peer.identity.role is not Role.AGENT or not is_current:
            raise TrustError(f"{peer.identity} is no agent of this master now", "Enrol the worker, and let it join.")
        (checked,) = await self._checker.check([await self._store.hosts.get(peer.identity.host)])
        return SeenReply(ok=checked.ok, error=shown(checked.error or ""), advice=shown(checked.advice or ""))


def _entry(wheel: Wheel) -> dict[str, object]:
    return {
        "file": wheel.file,
        "project": wheel.project,
        "version": wheel.version,
        "sha256": wheel.sha256,
        "bytes": wheel.bytes,
    }


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""
