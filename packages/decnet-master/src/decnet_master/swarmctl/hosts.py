"""Workers over HTTP: enrol a name, with a token or with a bundle; list them, ask the active ones, decommission one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query

import decnet_master
from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import Enrolment, JoinReply, JoinRequest
from decnet_core.fleet import HostName
from decnet_master.enrolment.registrar import Registrar
from decnet_master.enrolment.tokens import TokenMint
from decnet_master.planning import NoWorkers
from decnet_master.store import Host, HostStatus, Store, Token
from decnet_master.swarmctl.checking import Checker
from decnet_master.swarmctl.dispatch import Dispatcher
from decnet_master.swarmctl.messages import (
    BundleReply,
    BundleRequest,
    CheckReply,
    DecommissionReply,
    EnrollReply,
    EnrollRequest,
    TokenList,
    TokenView,
)
from decnet_master.views import HostDetail, HostList, decky_list, host_list, host_view

log = structlog.get_logger()


BUNDLE_TOKEN = timedelta(minutes=1)
"""The token that stands behind a bundle is made and used in one request."""


def router(
    store: Store, mint: TokenMint, registrar: Registrar, dispatcher: Dispatcher, checker: Checker, *, token_minutes: int
) -> APIRouter:
    """Build the room's routes."""
    routes = APIRouter()

    @routes.get("/hosts")
    async def list_hosts(status: Annotated[list[HostStatus] | None, Query(max_length=10)] = None) -> HostList:
        hosts = [host for host in await store.hosts.list() if not status or host.status in status]
        return host_list(hosts, await store.heartbeats.list())

    @routes.get("/hosts/{name}")
    async def show(name: HostName) -> HostDetail:
        host, beats = await store.hosts.get(name), await store.heartbeats.list()
        here = [decky for decky in await store.fleet.current() if decky.host == name]
        standing = next((one for one in await store.certificates.standings() if one.host == name), None)
        return HostDetail(
            host=host_view(host, beats.get(name)),
            updater_port=host.updater_port,
            certificate_ends_at=None if standing is None else standing.not_after,
            deckies=decky_list(here, beats).deckies,
        )

    @routes.post("/hosts", status_code=201)
    async def enroll(request: EnrollRequest) -> EnrollReply:
        lifetime = timedelta(minutes=request.ttl_minutes or token_minutes)
        token = await mint.issue(request.name, lifetime, datetime.now(UTC), request.labels)
        return EnrollReply(host=token.host, token=token.encode(), expires_at=token.expires_at)

    @routes.post("/hosts/bundle", status_code=201)
    async def bundle(request: BundleRequest) -> BundleReply:
        now = datetime.now(UTC)
        token = await mint.issue(request.name, BUNDLE_TOKEN, now, request.labels)
        join = JoinRequest(
            token_id=token.id,
            secret=token.secret,
            version=decnet_master.__version__,
            agent_port=request.agent_port,
            updater_port=request.updater_port,
            address=request.address,
            csrs=request.csrs,
        )
        reply = JoinReply.model_validate_json(await registrar.join(join, None, now))
        master = Endpoint.parse(token.address)
        enrolment = Enrolment(
            host=token.host, master=master.host, listener_port=reply.listener_port, enrolment_port=master.port
        )
        return BundleReply(ca_pem=reply.ca_pem, certificates=reply.certificates, enrolment=enrolment)

    @routes.get("/tokens")
    async def list_tokens() -> TokenList:
        return TokenList(tokens=tuple(map(_token, await store.tokens.list(datetime.now(UTC)))))

    @routes.post("/tokens/{token_id}/revoke")
    async def revoke_token(token_id: Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]) -> TokenView:
        token = await store.tokens.revoke(token_id, datetime.now(UTC))
        log.info("token.revoked", host=token.host, token_id=token.id)
        return _token(token)

    @routes.post("/hosts/{name}/decommission")
    async def decommission(name: HostName) -> DecommissionReply:
        host = await store.hosts.decommission(name, datetime.now(UTC))
        dispatcher.drop(name)
        deckies = sum(decky.host == name for decky in await store.fleet.current())
        log.info("host.decommissioned", host=name, deckies=deckies)
        return DecommissionReply(host=host.name, deckies=deckies)

    @routes.post("/hosts/check")
    async def check() -> CheckReply:
        active = await active_hosts(store)
        if not active:
            raise NoWorkers
        return CheckReply(results=tuple(await checker.check(active)))

    return routes


def _token(token: Token) -> TokenView:
    return TokenView(
        id=token.id,
        host=token.host,
        state=token.state.value,
        created_at=token.created_at,
        expires_at=token.expires_at,
    )


async def active_hosts(store: Store) -> list[Host]:
    """List the workers that may be spoken to."""
    return [host for host in await store.hosts.list() if host.status is HostStatus.ACTIVE]
