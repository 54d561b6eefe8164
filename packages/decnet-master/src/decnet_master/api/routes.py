"""The API's application: the rooms, and which of them need a login.

What is open to all is listed here and nowhere else: login and the two probes. Everything else hangs under one router
whose dependency asks for a token, but for the metrics, which take another token too; a test walks all routes.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends, FastAPI
from starlette.types import ASGIApp

from decnet_master.api import auth, events, health, metrics, shipping, stream
from decnet_master.api.access import Access
from decnet_master.api.fanout import Fanout
from decnet_master.http_app import bare_app
from decnet_master.http_guard import Bounds, Guard
from decnet_master.http_server import Limits
from decnet_master.store import Store
from decnet_master.views import DeckyList, HostList, decky_list, host_list

PREFIX = "/api/v1"

BOUNDS = Bounds(body_bytes=64 * 1024, body_secs=10.0)
LIMITS = Limits(connections=512)
"""A hundred streams and the rest for requests."""


def guarded(app: FastAPI) -> ASGIApp:
    """Put the application behind its guard."""
    return Guard(app, BOUNDS)


def application(
    store: Store,
    access: Access,
    fanout: Fanout,
    *,
    dead_letter_alarm: int = 100,
    metrics_token: str | None = None,
) -> FastAPI:
    """Put the API's routes together.

    Args:
        store: open.
        access: says who asks.
        fanout: feeds the live stream.
        dead_letter_alarm: from how many recent ones on health is red.
        metrics_token: lets a Prometheus server read the metrics.
    """
    app = bare_app()
    open_auth, protected_auth = auth.router(store, access)
    open_health, protected_health = health.router(store, dead_letter_alarm)
    app.include_router(open_health)
    app.include_router(open_auth, prefix=PREFIX)
    protected = APIRouter(prefix=PREFIX, dependencies=[Depends(access.user_of)])
    for room in (protected_auth, protected_health, events.router(store), stream.router(store, fanout, access)):
        protected.include_router(room)
    protected.include_router(shipping.router(store))
    protected.include_router(_inventory(store))
    app.include_router(protected)
    alarm, token = dead_letter_alarm, metrics_token
    app.include_router(metrics.router(store, access, fanout, dead_letter_alarm=alarm, metrics_token=token))
    return app


def _inventory(store: Store) -> APIRouter:
    """Build the routes of hosts and deckies: read only, changing them is the controller's."""
    routes = APIRouter()

    @routes.get("/deckies")
    async def deckies() -> DeckyList:
        return decky_list(await store.fleet.current(), await store.heartbeats.list())

    @routes.get("/hosts")
    async def hosts() -> HostList:
        return host_list(await store.hosts.list(), await store.heartbeats.list())

    return routes
