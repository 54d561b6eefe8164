"""The controller's application: the rooms, and what stands before them at each of its two doors.

On the loopback every request needs the secret, elsewhere an operator's certificate (`operator_door`); also one for a
path that does not exist. Both are checked before the framework sees it, so no route can be forgotten.
"""

from __future__ import annotations

import hmac

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

import decnet_master
from decnet_core.endpoints import Endpoint
from decnet_core.identity import MASTER_HOST
from decnet_core.logs import shown
from decnet_master.artifact_shelf import ArtifactShelf
from decnet_master.bootstrap.bundles import Bundles
from decnet_master.enrolment.registrar import Registrar
from decnet_master.enrolment.tokens import TokenMint
from decnet_master.http_app import answer_of, bare_app
from decnet_master.http_guard import LOOPBACK_NAMES, Bounds, Guard
from decnet_master.problems import TooManyRequests, Unauthenticated
from decnet_master.rate_limit import RateLimit
from decnet_master.store import Store
from decnet_master.swarmctl import artifacts, bootstrap, fleet, hosts, operators, pki, traits
from decnet_master.swarmctl.changes import Changes
from decnet_master.swarmctl.checking import Checker
from decnet_master.swarmctl.dispatch import Dispatcher
from decnet_master.swarmctl.keeper import IdentityKeeper
from decnet_master.swarmctl.messages import ControllerHealth
from decnet_master.swarmctl.operator_door import (
    MAX_PATH_CHARS,
    ON_THE_MASTER,
    TELL_EVERY_SECS,
    TOLD,
    OperatorDoor,
)

BOUNDS = Bounds(body_bytes=4 << 20, body_secs=10.0)
"""A fleet file of the largest size, each of its deckies a group with a host and labels, is half of it."""

log = structlog.get_logger()


def rooms(
    store: Store,
    mint: TokenMint,
    dispatcher: Dispatcher,
    changes: Changes,
    registrar: Registrar,
    *,
    keeper: IdentityKeeper,
    checker: Checker,
    token_minutes: int,
    bundles: Bundles,
    shelf: ArtifactShelf,
) -> ASGIApp:
    """Put the controller's routes together; nothing stands before them yet.

    Args:
        store: open.
        mint: makes join tokens.
        dispatcher: talks to the agents.
        changes: changes the fleet.
        registrar: issues for workers that get a bundle.
        keeper: has the CAs open.
        checker: asks workers how they are.
        token_minutes: how long a token lives when the operator does not say.
        bundles: the wheels that new workers are sent.
        shelf: where fetched artifacts are kept.
    """
    app = bare_app(strangers=False)
    app.include_router(hosts.router(store, mint, registrar, dispatcher, checker, token_minutes=token_minutes))
    app.include_router(traits.router(store))
    app.include_router(pki.router(store, keeper, checker))
    app.include_router(operators.router(store, keeper.issuer))
    app.include_router(fleet.router(store, changes))
    app.include_router(bootstrap.router(bundles))
    app.include_router(artifacts.router(store, dispatcher, shelf))

    @app.get("/health")
    async def health() -> ControllerHealth:
        await store.ping()
        return ControllerHealth(version=decnet_master.__version__)

    return app


def behind_secret(app: ASGIApp, secret: str, address: Endpoint) -> ASGIApp:
    """Put the rooms behind the secret.

    Args:
        app: the rooms.
        secret: what a caller must show.
        address: where it listens; its host is a name that it answers under, beside those of the loopback.
    """
    own = f"[{address.host}]" if ":" in address.host else address.host
    return Guard(_Secret(app, secret), BOUNDS, LOOPBACK_NAMES | {own})


def behind_certificates(door: OperatorDoor) -> ASGIApp:
    """Put the rooms, behind their door for operators, behind the guard: they answer as `decnet-master` alone."""
    return Guard(door, BOUNDS, {MASTER_HOST})


class _Secret:
    """Lets only those in who show the secret."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._wanted = f"Bearer {secret}".encode()
        self._told = RateLimit(TOLD, TELL_EVERY_SECS)
        self._untold = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shown = Headers(scope=scope).get("authorization", "").encode("latin-1")
        if hmac.compare_digest(shown, self._wanted):
            with structlog.contextvars.bound_contextvars(operator=ON_THE_MASTER):
                return await self._app(scope, receive, send)
        self._tell(scope)
        refusal = Unauthenticated(
            "The controller wants its secret", "Run decnet-master as a user who may read controller.secret."
        )
        return await answer_of(refusal, scope["state"]["request_id"])(scope, receive, send)

    def _tell(self, scope: Scope) -> None:
        try:
            self._told.take("")
        except TooManyRequests:  # whoever tries secrets by the thousand must not fill a disk with it
            self._untold += 1
            return
        log.warning(
            "controller.refused",
            method=scope["method"],
            path=shown(scope["path"], MAX_PATH_CHARS),
            untold=self._untold,
        )
        self._untold = 0
