"""The endpoint that workers join at. It has two routes, no pages about itself, and no state of its own."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog
from fastapi import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from decnet_core.enrolment import JoinRequest
from decnet_core.errors import DecnetError
from decnet_master.enrolment.registrar import Registrar
from decnet_master.http_app import bare_app
from decnet_master.http_guard import Bounds, Guard
from decnet_master.http_server import Limits
from decnet_master.rate_limit import RateLimit

BOUNDS = Bounds(body_bytes=64 * 1024, body_secs=10.0)
"""Three requests for RSA-4096 keys are 6 KiB."""

LIMITS = Limits(connections=64, connection_secs=30.0)
"""A worker needs two short connections, once."""

TRIES = 10
TRY_EVERY_SECS = 6.0
"""A rack behind one address joins at ten a minute after the first ten. 256 bits need no such limit, our CPU does."""

log = structlog.get_logger()


def endpoint(registrar: Registrar) -> ASGIApp:
    """Put the endpoint together."""
    app = bare_app()
    tries = RateLimit(TRIES, TRY_EVERY_SECS)

    @app.get("/ca")
    async def ca() -> Response:
        return Response(registrar.ca_pem, media_type="application/x-pem-file")

    @app.post("/join")
    async def join(request: Request, body: JoinRequest) -> Response:
        came_from = request.client.host if request.client is not None else ""
        try:
            tries.take(came_from)
            reply = await registrar.join(body, came_from, datetime.now(UTC))
        except DecnetError as error:
            log.warning("join.refused", address=came_from, token_id=body.token_id, reason=error.message)
            raise
        return Response(reply, media_type="application/json")

    return Guard(app, BOUNDS)
