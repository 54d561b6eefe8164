"""The API's application: the rooms, and which of them need a login.

What is open to all is listed here and nowhere else: login and the two probes. Everything else hangs under one router
whose dependency asks for a token; a test walks all routes.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends, FastAPI
from starlette.types import ASGIApp

from decnet_master.api import auth, events, health, stream
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


def application(store: Store, access: Access, fanout: Fanout) -> FastAPI:
    """Put the API's routes together."""
    app = bare_app()
    open_auth, protected_auth = auth.router(store, access)
    open_health, protected_health = health.router(store)
    app.include_router(open_health)
    app.include_router(open_auth, prefix=PREFIX)
    protected = APIRouter(prefix=PREFIX, dependencies=[Depends(access.user_of)])
    for room in (protected_auth, protected_health, events.router(store), stream.router(store, fanout, access)):
        protected.include_router(room)
    protected.include_router(_inventory(store))
    app.include_router(protected)
    return app


def _inventory(store: Store) -> APIRouter:
    """Build the routes of hosts and deckies: read only, changing them is the controller's."""
    routes = APIRouter()

    @routes.get("/deckies")
    async def deckies() -> DeckyList:
        return decky_list(await store.fleet.current())

    @routes.get("/hosts")
    async def hosts() -> HostList:
        return host_list(await store.hosts.list())

    return routes
