"""The transaction in which a worker joins: a token is traded for certificates, once.

`redeem` runs inside the caller's transaction and holds the token's row, so that of two workers with the same token at
the same moment exactly one wins. It knows nothing of how certificates are made.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_core.errors import TrustError
from decnet_master.store.schema import certificates, hosts, join_tokens
from decnet_master.store.values import micros, storable

ANOTHER_TOKEN = "Ask the operator for a new one (`decnet-master swarm enroll`)."  # noqa: S105 -- no secret


class HostStatus(StrEnum):
    """Where a host stands."""

    ENROLLED = "enrolled"
    """Has a token, did not join yet."""
    ACTIVE = "active"
    DECOMMISSIONED = "decommissioned"


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate as the store knows it.

    Attributes:
        fingerprint: SHA-256 of the DER form, 64 hex digits.
        identity: `role@host`.
        not_after: its end, aware UTC.
        serial: its serial number in hex.
        key_digest: SHA-256 of its public key, by which a repeated request is known.
        issuer: the fingerprint of the CA that signed it.
        pem: the certificate, for a repeated request.

    The last four are empty where they were not recorded: of a certificate issued by an older release.
    """

    fingerprint: str
    identity: str
    not_after: datetime
    serial: str = ""
    key_digest: str = ""
    issuer: str = ""
    pem: str = ""


@dataclass(frozen=True, slots=True)
class Redemption:
    """What joining gave: the reply (JSON text), where the worker is reached (None: not known), and its certificates."""

    reply: str
    address: str | None
    agent_port: int
    updater_port: int
    version: str
    certificates: tuple[IssuedCertificate, ...]


async def redeem(
    connection: AsyncConnection,
    *,
    token_id: str,
    secret_hash: str,
    csr_digest: str,
    now: datetime,
    issue: Callable[[str], Redemption],
) -> str:
    """Trade a token for certificates; see `Hosts.redeem` for arguments and errors."""
    query = select(join_tokens).where(join_tokens.c.id == token_id).with_for_update()
    token = (await connection.execute(query)).one_or_none()
    # The same words whether the id or the secret is wrong: nobody learns which tokens exist.
    if token is None or not hmac.compare_digest(token.secret_hash, secret_hash):
        raise TrustError("This join token is not known", ANOTHER_TOKEN)
    query = select(hosts.c.status).where(hosts.c.name == token.host).with_for_update()
    status = (await connection.execute(query)).scalar_one()
    if token.used_at is not None:
        return _reply_again(token, csr_digest, status)
    if token.revoked_at is not None:
        raise TrustError("This join token was revoked", ANOTHER_TOKEN)
    if status != HostStatus.ENROLLED or micros(now) >= token.expires_at:
        raise TrustError("This join token has ended", ANOTHER_TOKEN)
    redemption = issue(token.host)
    await _record(connection, token.host, redemption, now)
    used = {"used_at": micros(now), "csr_digest": csr_digest, "reply": redemption.reply}
    await connection.execute(update(join_tokens).where(join_tokens.c.id == token_id).values(used))
    return redemption.reply


def _reply_again(token: Row[Any], csr_digest: str, status: str) -> str:
    if status != HostStatus.ACTIVE or token.csr_digest != csr_digest:
        raise TrustError("This join token was used already", ANOTHER_TOKEN)
    reply: str = token.reply
    return reply


async def _record(connection: AsyncConnection, name: str, redemption: Redemption, now: datetime) -> None:
    change = update(hosts).where(hosts.c.name == storable(name))
    await connection.execute(
        change.values(
            status=HostStatus.ACTIVE.value,
            address=None if redemption.address is None else storable(redemption.address),
            agent_port=redemption.agent_port,
            updater_port=redemption.updater_port,
            version=storable(redemption.version),
            enrolled_at=micros(now),
        )
    )
    await record_certificates(connection, name, redemption.certificates, now)


async def record_certificates(
    connection: AsyncConnection, host: str, issued: Sequence[IssuedCertificate], now: datetime
) -> None:
    """Write down what was issued to a host, in the transaction of the issuing."""
    rows = [
        {
            "fingerprint": certificate.fingerprint,
            "identity": certificate.identity,
            "host": host,
            "issued_at": micros(now),
            "not_after": micros(certificate.not_after),
            "serial": certificate.serial or None,
            "key_digest": certificate.key_digest or None,
            "issuer": certificate.issuer or None,
            "pem": certificate.pem or None,
        }
        for certificate in issued
    ]
    if rows:
        await connection.execute(insert(certificates), rows)
