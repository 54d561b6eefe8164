"""What the agent answers: five routes, for the master alone.

    GET  /health    -> Health        the agent lives
    GET  /status    -> AgentStatus   what runs here
    POST /deploy    Shard -> ShardReport
    POST /teardown  Shard -> ShardReport   the same, for a shard with fewer deckies: the name says what was meant
    GET  /artifacts/SHA256 -> its bytes    a captured file or a recording

Invariants
- Only `master@decnet-master` is answered, by its verified certificate; everybody else gets 403 whatever he asks,
  and learns nothing of the routes. There are no pages about the API.
- A body is bounded in bytes and in time. Errors are problem+json with the kind of our error, so that the master's CLI
  ends with the same exit code; no input is quoted in them.
- Starlette is what FastAPI is built on: five routes and one body need no more, and a worker keeps 7 MB.

Source: RFC 9457 (problem details).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from decnet_agent.evidence.artifacts import Artifact, Artifacts
from decnet_core import errors
from decnet_core.errors import DecnetError, RemoteProtocolError, TrustError
from decnet_core.fleet import AgentStatus, Contract, Health, Shard, ShardReport
from decnet_core.identity import MASTER
from decnet_core.peer import ASGIApp, Receive, Scope, Send, peer_in

MAX_BODY_BYTES = 4 << 20
"""The largest shard, 1,000 deckies with 16 accounts each, is half of it."""

BODY_SECS = 30.0

ARTIFACT_SECS = 600.0
"""The largest artifact, 64 MiB, at 1 Mbit/s."""

_TYPE_PREFIX = "urn:decnet:problem:"

# The most telling class first.
_PROBLEMS: tuple[tuple[type[DecnetError], int, str], ...] = (
    (errors.RemoteProtocolError, 400, "bad-request"),
    (errors.TrustError, 403, "not-trusted"),
    (errors.RetryLater, 503, "retry-later"),
    (errors.Unavailable, 503, "unavailable"),
    (errors.Conflict, 409, "conflict"),
    (errors.NotFound, 404, "not-found"),
    (errors.ConfigError, 500, "configuration"),
    (DecnetError, 500, "failed"),
)

log = structlog.get_logger()


class Agent(Protocol):
    """What the routes call."""

    def health(self) -> Health:
        """Tell that the agent lives."""

    async def status(self) -> AgentStatus:
        """Tell what runs here."""

    async def apply(self, shard: Shard) -> ShardReport:
        """Make the worker run what the shard says."""


def build(agent: Agent, artifacts: Artifacts | None = None) -> ASGIApp:
    """Wire the application.

    Args:
        agent: what is called.
        artifacts: what the tap keeps; None where there is none to give.
    """

    async def health(_request: Request) -> Response:
        return _answer(agent.health())

    async def status(_request: Request) -> Response:
        return _answer(await agent.status())

    async def apply(request: Request) -> Response:
        try:
            shard = Shard.model_validate_json(await request.body())
        except ValidationError as error:
            return problem(_misfit(error))
        # A master that hangs up does not stop half-way what it asked for.
        return _answer(await asyncio.shield(asyncio.ensure_future(agent.apply(shard))))

    async def artifact(request: Request) -> Response:
        if artifacts is None:
            raise errors.NotFound("This worker keeps no artifacts", "")
        found = artifacts.open(request.path_params["sha256"])
        return _Streamed(found)

    routes = [
        Route("/artifacts/{sha256}", artifact),
        Route("/health", health),
        Route("/status", status),
        Route("/deploy", apply, methods=["POST"]),
        Route("/teardown", apply, methods=["POST"]),
    ]
    handlers = {DecnetError: _on_decnet_error, HTTPException: _on_http_exception}
    return _for_the_master(Starlette(routes=routes, exception_handlers=handlers))


def problem(error: DecnetError, status: int | None = None) -> JSONResponse:
    """Translate one of our errors; `status` is for one that HTTP has a better number for."""
    usual, kind = next((status, kind) for type_, status, kind in _PROBLEMS if isinstance(error, type_))
    status = status or usual
    document = {"type": _TYPE_PREFIX + kind, "status": status, "detail": error.message, "advice": error.advice}
    return JSONResponse(document, status_code=status, media_type="application/problem+json")


def _on_decnet_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DecnetError)  # noqa: S101 -- how it was registered
    log.warning("call.failed", path=request.url.path, reason=error.message, advice=error.advice)
    return problem(error)


def _answer(answer: Contract) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


def _misfit(error: ValidationError) -> RemoteProtocolError:
    found = error.errors(include_input=False, include_url=False, include_context=False)[:5]
    faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in found)
    return RemoteProtocolError(f"The shard does not fit: {faults[:300]}", "Run the same release on master and workers.")


def _on_http_exception(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 -- how it was registered
    advice = "Run the same release on master and workers."
    if error.status_code == 404:
        return problem(errors.NotFound("An agent has no such route", advice))
    return problem(RemoteProtocolError(f"The request cannot be read: {error.detail}", advice), error.status_code)


class _Streamed(StreamingResponse):
    """An artifact's bytes; it is closed also when nobody takes them."""

    def __init__(self, artifact: Artifact) -> None:
        headers = {"content-length": str(artifact.size_bytes)}
        super().__init__(artifact.pieces(), media_type="application/octet-stream", headers=headers)
        self._artifact = artifact

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(ARTIFACT_SECS):
                await super().__call__(scope, receive, send)
        finally:
            self._artifact.close()


def _for_the_master(app: ASGIApp) -> ASGIApp:
    """Let only the master's requests through, their bodies read and bounded before anything looks at them."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            peer = peer_in(scope)
            if peer.identity != MASTER:
                raise TrustError(f"{peer.identity} may not command an agent", "Only the master's identity may.")
            body = await _read_body(receive)
        except DecnetError as error:
            client = (scope.get("client") or ("",))[0]
            log.warning("call.refused", address=client, reason=error.message)
            await problem(error)(scope, receive, send)
            return
        await app(scope, _once(body, receive), send)

    return guarded


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    more = True
    try:
        async with asyncio.timeout(BODY_SECS):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise RemoteProtocolError("The caller hung up")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > MAX_BODY_BYTES:
                    raise RemoteProtocolError(f"The body is over {MAX_BODY_BYTES} bytes", "Deploy fewer deckies here.")
    except TimeoutError as cause:
        raise RemoteProtocolError("The body did not arrive in time", "Try again.") from cause
    return bytes(body)


def _once(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> dict[str, object]:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return dict(await receive())

    return replay
