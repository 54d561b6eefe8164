"""Workers over HTTP: enrol a name, list them, ask the active ones how they are, decommission one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog
from fastapi import APIRouter

from decnet_core.fleet import HostName
from decnet_master.enrolment.tokens import TokenMint
from decnet_master.planning import NoWorkers
from decnet_master.store import Host, HostStatus, Store
from decnet_master.swarmctl.dispatch import Dispatcher
from decnet_master.swarmctl.messages import CheckReply, DecommissionReply, EnrollReply, EnrollRequest
from decnet_master.views import HostList, host_list

log = structlog.get_logger()


def router(store: Store, mint: TokenMint, dispatcher: Dispatcher, token_minutes: int) -> APIRouter:
    """Build the room's routes."""
    routes = APIRouter()

    @routes.get("/hosts")
    async def list_hosts() -> HostList:
        return host_list(await store.hosts.list())

    @routes.post("/hosts", status_code=201)
    async def enroll(request: EnrollRequest) -> EnrollReply:
        lifetime = timedelta(minutes=request.ttl_minutes or token_minutes)
        token = await mint.issue(request.name, lifetime, datetime.now(UTC))
        return EnrollReply(host=token.host, token=token.encode(), expires_at=token.expires_at)

    @routes.post("/hosts/{name}/decommission")
    async def decommission(name: HostName) -> DecommissionReply:
        host = await store.hosts.decommission(name, datetime.now(UTC))
        deckies = sum(decky.host == name for decky in await store.fleet.current())
        log.info("host.decommissioned", host=name, deckies=deckies)
        return DecommissionReply(host=host.name, deckies=deckies)

    @routes.post("/hosts/check")
    async def check() -> CheckReply:
        active = await active_hosts(store)
        if not active:
            raise NoWorkers
        return CheckReply(results=tuple(await dispatcher.check(active)))

    return routes


async def active_hosts(store: Store) -> list[Host]:
    """List the workers that may be spoken to."""
    return [host for host in await store.hosts.list() if host.status is HostStatus.ACTIVE]
