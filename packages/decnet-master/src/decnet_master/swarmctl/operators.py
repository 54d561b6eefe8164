"""Operators over HTTP: let one in, list them, renew one's own certificate, revoke one.

    GET  /operators
    POST /operators                  let in; on the master itself alone
    POST /operators/renew            an operator, for a new key of its own
    POST /operators/{name}/revoke    from anywhere: it only takes away

Whoever steers could otherwise let in a second identity with a stolen certificate, and keep it when the first is
revoked. So who may steer is decided where the master's secret can be read, and nowhere else.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Request

from decnet_core.errors import Conflict, TrustError
from decnet_core.identity import MAX_OPERATOR_LENGTH, RESERVED_HOSTS, Identity, Role
from decnet_core.peer import peer_in
from decnet_core.pki.certificates import asks_for_more
from decnet_core.pki.verification import load_certificates
from decnet_master.enrolment.issuer import Issuer, key_digest
from decnet_master.store import Granted, IssuedCertificate, Operator, Store
from decnet_master.swarmctl.operator_door import ON_THE_MASTER, steerer
from decnet_master.swarmctl.operator_messages import (
    Grant,
    OperatorList,
    OperatorView,
    RenewalRequest,
    SignRequest,
)

Name = Annotated[str, Path(pattern=r"^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$", max_length=MAX_OPERATOR_LENGTH)]

log = structlog.get_logger()


def router(store: Store, issuer: Issuer) -> APIRouter:
    """Build the room's routes."""
    routes = APIRouter(prefix="/operators")

    @routes.get("")
    async def list_operators() -> OperatorList:
        return OperatorList(operators=tuple(map(_view, await store.operators.list(datetime.now(UTC)))))

    @routes.post("", status_code=201)
    async def sign(request: Request, body: SignRequest) -> Grant:
        if steerer(request.scope) != ON_THE_MASTER:
            raise TrustError(
                "Operators are let in on the master alone", "Run `decnet-master operator sign` there, without --url."
            )
        if body.name in RESERVED_HOSTS:
            raise Conflict(f"{body.name} is a reserved name", "Choose the operator's own name.")
        now = datetime.now(UTC)
        granted = await store.operators.let_in(
            body.name, key_digest(body.csr), now, lambda: _issue(issuer, body.csr, body.name, now)
        )
        log.warning("operator.let_in", operator=body.name, issued=granted.issued)
        return _grant(issuer, body.name, granted)

    @routes.post("/renew")
    async def renew(request: Request, body: RenewalRequest) -> Grant:
        peer, now = peer_in(request.scope), datetime.now(UTC)
        name = peer.identity.host
        granted = await store.operators.renew(
            (name, peer.fingerprint), key_digest(body.csr), now, lambda: _issue(issuer, body.csr, name, now)
        )
        log.info("operator.renewed", operator=name, issued=granted.issued)
        return _grant(issuer, name, granted)

    @routes.post("/{name}/revoke")
    async def revoke(request: Request, name: Name) -> OperatorView:
        by = steerer(request.scope)
        revoked = await store.operators.revoke(name, by, datetime.now(UTC))
        log.warning("operator.revoked", operator=name, by=by)
        return _view(revoked)

    return routes


def _issue(issuer: Issuer, csr: str, name: str, now: datetime) -> IssuedCertificate:
    identity = Identity(Role.OPERATOR, name)
    if asks_for_more(csr.encode(), identity):
        log.warning("request.overreached", identity=str(identity))
    return issuer.issue(csr, identity, (), now)


def _grant(issuer: Issuer, name: str, granted: Granted) -> Grant:
    (leaf,) = load_certificates(granted.pem.encode())
    return Grant(
        name=name,
        certificate=granted.pem,
        ca_pem=issuer.authorities.trusted_pem.decode(),
        ends_at=leaf.not_valid_after_utc,
    )


def _view(operator: Operator) -> OperatorView:
    return OperatorView(
        name=operator.name,
        created_at=operator.created_at,
        revoked_at=operator.revoked_at,
        revoked_by=operator.revoked_by,
        certificates=operator.certificates,
        ends_at=operator.ends_at,
        seen_at=operator.seen_at,
    )
