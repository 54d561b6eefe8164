"""What the updater answers to the master.

    GET /health     `decnet_core.fleet.Health`
    GET /status     `UpdaterStatus`

Only `master@decnet-master` may ask; anybody else with a certificate of our CA is answered 403. That is judged before
the path is looked at, so that a stolen worker identity cannot even learn which paths exist. Every error is a problem
(RFC 9457) whose type is `urn:decnet:problem:<kind>`.

Starlette is what FastAPI is built on. Two answers without bodies, parameters or a schema need no more, and importing
FastAPI costs 7 MB of memory and ten packages that would lie idle on every worker.
"""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from decnet_core.fleet import Contract, Health, HostName
from decnet_core.identity import MASTER, Role
from decnet_core.peer import ASGIApp, Receive, Scope, Send, peer_in
from decnet_updater import __version__

log = structlog.get_logger()


class UpdaterStatus(Contract):
    """What the updater runs, and on what."""

    host: HostName
    version: str
    python: str
    platform: str


def application(host: str) -> ASGIApp:
    """Build the application of one worker, to be served with `decnet_core.peer` in front of it."""
    health = Health(role=Role.UPDATER, host=host, version=__version__)
    status = UpdaterStatus(
        host=host, version=__version__, python=platform.python_version(), platform=platform.platform()
    )
    return _OnlyMaster(
        Starlette(
            routes=[Route("/health", _constant(health)), Route("/status", _constant(status))],
            exception_handlers={HTTPException: _on_http_exception, Exception: _on_bug},
        )
    )


class _OnlyMaster:
    """Lets through what the master asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = peer_in(scope)
        if peer.identity == MASTER:
            return await self._app(scope, receive, send)
        log.warning("request.refused", identity=str(peer.identity), address=peer.address)
        refusal = _problem(HTTPStatus.FORBIDDEN, "not-trusted", f"{peer.identity} may not speak to the updater")
        return await refusal(scope, receive, send)


def _constant(answer: Contract) -> Callable[[Request], Awaitable[Response]]:
    """Make the endpoint of an answer that does not change while the process lives."""
    body = answer.model_dump_json()

    async def endpoint(_request: Request) -> Response:
        return Response(body, media_type="application/json")

    return endpoint


async def _on_http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 -- how it was registered
    status = HTTPStatus(error.status_code)
    kind = "not-found" if status is HTTPStatus.NOT_FOUND else "bad-request"
    return _problem(status, kind, status.phrase, headers=dict(error.headers or {}))


async def _on_bug(_request: Request, _error: Exception) -> Response:
    return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "failed", "Something in the updater failed; its log tells more")


def _problem(status: HTTPStatus, kind: str, detail: str, *, headers: dict[str, str] | None = None) -> Response:
    document = {
        "type": f"urn:decnet:problem:{kind}",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
    }
    return JSONResponse(document, status_code=status, headers=headers, media_type="application/problem+json")
