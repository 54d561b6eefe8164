"""The endpoint that workers join and renew at. It has no pages about itself, and no state of its own.

    GET  /ca        the CA, to whoever asks
    POST /join      a token for certificates
    POST /renew     new certificates for a worker that shows its agent's
    GET  /renewed   that worker shows that it uses them

The first two are a stranger's, the others want a certificate. All are at one port, because a worker's firewall knows
one: a certificate is asked for and nobody has to have one, but one that is shown must be of our CA. What hosts are
given that have nothing yet is a room of its own, `decnet_master.bootstrap`.
"""

from __future__ import annotations

from datetime import UTC, datetime

import structlog
from fastapi import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from decnet_core.enrolment import JoinRequest, RenewReply, RenewRequest
from decnet_core.errors import DecnetError
from decnet_core.peer import peer_in
from decnet_master.bootstrap.routes import Bootstrap
from decnet_master.enrolment.registrar import Registrar
from decnet_master.http_app import bare_app
from decnet_master.http_guard import Bounds, Guard
from decnet_master.http_server import Limits
from decnet_master.rate_limit import RateLimit

BOUNDS = Bounds(body_bytes=64 * 1024, body_secs=10.0)
"""Three requests for RSA-4096 keys are 6 KiB."""

LIMITS = Limits(connections=64, connection_secs=30.0)
"""A worker needs two short connections to join; a wheel that does not come within one is read on in the next."""

TRIES = 10
TRY_EVERY_SECS = 6.0
"""A rack behind one address joins at ten a minute after the first ten. 256 bits need no such limit, our CPU does."""

RENEWALS = 6
RENEWAL_EVERY_SECS = 600.0
"""A worker renews once in days, and tries again at growing intervals. What it is given is recorded: a lost worker that
asks without end must not fill the database."""

log = structlog.get_logger()


def endpoint(registrar: Registrar, bootstrap: Bootstrap | None = None) -> ASGIApp:
    """Put the endpoint together; without the second argument it does not serve bare hosts."""
    app = bare_app()
    if bootstrap is not None:
        bootstrap.add_to(app)
    tries = RateLimit(TRIES, TRY_EVERY_SECS)
    renewals = RateLimit(RENEWALS, RENEWAL_EVERY_SECS, total_factor=1000)

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

    @app.post("/renew")
    async def renew(request: Request, body: RenewRequest) -> RenewReply:
        came_from = request.client.host if request.client is not None else ""
        try:
            peer = peer_in(request.scope)
            renewals.take(peer.fingerprint)  # not by name: who holds a revoked certificate of it must not use them up
            return await registrar.renew(peer, body, datetime.now(UTC))
        except DecnetError as error:
            log.warning("renewal.refused", address=came_from, reason=error.message)
            raise

    @app.get("/renewed", status_code=204)
    async def renewed(request: Request) -> Response:
        try:
            await registrar.confirm(peer_in(request.scope), datetime.now(UTC))
        except DecnetError as error:
            came_from = request.client.host if request.client is not None else ""
            log.warning("peer.refused", address=came_from, reason=error.message)
            raise
        return Response(status_code=204)

    return Guard(app, BOUNDS)
