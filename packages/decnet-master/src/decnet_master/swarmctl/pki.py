"""The CAs over HTTP: how they stand, begin a change, end it.

A change takes as long as the slowest worker: each learns of the new CA with its next renewal. Ending it before all have
is refused, and the refusal names who is missing, because what the old CA issued is refused from then on, and who trusts
the old one alone refuses the master.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import structlog
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import APIRouter

from decnet_core.errors import Conflict
from decnet_core.pki.authority import CertificateAuthority
from decnet_core.pki.rotation import Authorities
from decnet_master.store import Store, TokenState
from decnet_master.swarmctl.checking import Checker
from decnet_master.swarmctl.hosts import active_hosts
from decnet_master.swarmctl.keeper import IdentityKeeper
from decnet_master.swarmctl.messages import AuthorityView, PkiStatus, RetireRequest, WorkerCertificate

_SHOWN = 10

log = structlog.get_logger()


def router(store: Store, keeper: IdentityKeeper, checker: Checker) -> APIRouter:
    """Build the room's routes."""
    routes = APIRouter(prefix="/pki")

    @routes.get("")
    async def status() -> PkiStatus:
        return await _status(store, keeper.issuer.authorities)

    @routes.post("/rotate")
    async def rotate() -> PkiStatus:
        await keeper.change(keeper.issuer.rotate)
        now = keeper.issuer.authorities
        log.warning("ca.changing", old=now.anchor.fingerprint, new=now.issuing.fingerprint)
        return await _status(store, now)

    @routes.post("/retire")
    async def retire(request: RetireRequest) -> PkiStatus:
        if keeper.issuer.authorities.rotating and not request.force:
            await checker.check(await active_hosts(store))  # who renewed and was not seen since is seen by it
            _refuse_if_needed(await _status(store, keeper.issuer.authorities))
        old = keeper.issuer.authorities.anchor.fingerprint
        await keeper.change(keeper.issuer.retire)
        log.warning("ca.retired", old=old, forced=request.force)
        return await _status(store, keeper.issuer.authorities)

    return routes


def _refuse_if_needed(status: PkiStatus) -> None:
    missing = [worker.host for worker in status.workers if not worker.moved]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise Conflict(
            f"{len(missing)} of {len(status.workers)} workers still depend on the old CA: "
            f"{', '.join(missing[:_SHOWN])}{more}",
            "Wait for their renewals, or run `decnet-agent renew --now` there. `--force` cuts them off: each has to be "
            "decommissioned, enrolled and joined again.",
        )
    if status.open_tokens:
        raise Conflict(
            f"{status.open_tokens} join tokens name the old CA",
            "Wait until they are used or have ended, or revoke them (`decnet-master swarm tokens list`). `--force` "
            "makes them useless.",
        )
    if status.operators:
        raise Conflict(
            f"Operators still depend on the old CA: {', '.join(status.operators[:_SHOWN])}",
            "Let each run `decnet-master operator renew`, or revoke them (`decnet-master operator revoke`). `--force` "
            "cuts them off: each needs a new request that is signed.",
        )


async def _status(store: Store, authorities: Authorities) -> PkiStatus:
    now = datetime.now(UTC)
    staying = authorities.issuing.fingerprint
    workers = [
        WorkerCertificate(
            host=standing.host,
            ends_at=standing.used_not_after or standing.not_after,
            issuer=standing.used_issuer,
            moved=standing.used_issuer == staying if authorities.rotating else True,
        )
        for standing in await store.certificates.standings()
    ]
    old = authorities.anchor.fingerprint
    operators = await store.operators.depending_on(old, now) if authorities.rotating else ()
    tokens = [token for token in await store.tokens.list(now) if token.state is TokenState.OPEN]
    return PkiStatus(
        changing=authorities.rotating,
        authorities=_authorities(authorities),
        workers=tuple(workers),
        open_tokens=len(tokens),
        operators=operators,
    )


def _authorities(authorities: Authorities) -> tuple[AuthorityView, ...]:
    named: Sequence[tuple[str, CertificateAuthority]] = [("only", authorities.anchor)]
    if authorities.rotating:
        named = [("old", authorities.anchor), ("new", authorities.issuing)]
    return tuple(
        AuthorityView(
            fingerprint=authority.fingerprint,
            subject=authority.certificate.subject.rfc4514_string(),
            key=_key(authority),
            not_after=authority.certificate.not_valid_after_utc,
            role=role,
        )
        for role, authority in named
    )


def _key(authority: CertificateAuthority) -> str:
    key = authority.certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    return f"ECDSA {getattr(getattr(key, 'curve', None), 'name', '')}".strip()
