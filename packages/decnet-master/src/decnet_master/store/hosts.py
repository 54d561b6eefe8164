"""Worker hosts: enrolled by name, joined by a token, active until decommissioned.

    create ──▶ enrolled ──redeem──▶ active ──decommission──▶ decommissioned ──create──▶ enrolled …

A token works once. Redeeming checks it, issues the certificates and records them in one transaction that holds the
token's row, so that of two workers with the same token at the same moment exactly one wins; the winner gets the
same answer again when it asks again with the same CSRs (the first answer may have been lost on the way).

Only a hash of a token's secret is stored. A certificate is current while its host is active and it was not revoked by
a decommissioning; a name that enrols again does not bring its old certificates back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_core.errors import Conflict, NotFound
from decnet_master.labels import changed
from decnet_master.store.engine import Database
from decnet_master.store.joining import ANOTHER_TOKEN, HostStatus, Redemption, redeem
from decnet_master.store.schema import certificates, hosts, join_tokens
from decnet_master.store.values import json_object, json_text, micros, moment, original, storable

MAX_VERSION_CHARS = 64
"""As in a join request; a worker's status could say more."""


@dataclass(frozen=True, slots=True)
class Host:
    """A worker host.

    Attributes:
        seen_at: when it last answered.
        labels, capacity: what the operator says of it, see `store.traits`; a capacity of None is as many as any.
    """

    name: str
    status: HostStatus
    address: str | None
    agent_port: int | None
    updater_port: int | None
    version: str | None
    created_at: datetime
    enrolled_at: datetime | None
    seen_at: datetime | None
    labels: Mapping[str, str] = field(default_factory=dict)
    capacity: int | None = None


class Hosts:
    """The room of the worker hosts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        name: str,
        token_id: str,
        token_hash: str,
        expires_at: datetime,
        now: datetime,
        *,
        labels: Mapping[str, str] | None = None,
    ) -> Host:
        """Enrol a host and store its token; labels are added to those that the name has from before.

        A name may be enrolled again when it was decommissioned, or when it never joined and its token has ended or was
        revoked.

        Raises:
            Conflict: the name is taken, or has too many labels.
        """
        try:
            async with self._database.write() as connection:
                query = select(hosts.c.status, hosts.c.labels).where(hosts.c.name == storable(name)).with_for_update()
                before = (await connection.execute(query)).one_or_none()
                values: dict[str, object] = {"status": HostStatus.ENROLLED.value, "created_at": micros(now)}
                if labels:
                    kept = json_object(before.labels) if before is not None and before.labels else {}
                    values["labels"] = json_text(changed(name, kept, labels, ()))
                if before is None:
                    await connection.execute(insert(hosts).values(name=name, **values))
                else:
                    await _clear_for_another(connection, name, HostStatus(before.status), now)
                    blank = dict.fromkeys(("address", "agent_port", "updater_port", "version", "enrolled_at"))
                    change = update(hosts).where(hosts.c.name == storable(name)).values(**values, **blank, seen_at=None)
                    await connection.execute(change)
                token: dict[str, object] = {
                    "id": token_id,
                    "secret_hash": token_hash,
                    "host": name,
                    "expires_at": micros(expires_at),
                }
                token["created_at"] = micros(now)
                await connection.execute(insert(join_tokens).values(token))
        except IntegrityError:  # somebody else created the same name at the same moment
            raise _taken(name) from None
        return await self.get(name)

    async def list(self) -> list[Host]:
        """List all hosts by name, also the decommissioned ones."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(hosts).order_by(hosts.c.name))).all()
        return [_host(row) for row in rows]

    async def get(self, name: str) -> Host:
        """Look one host up.

        Raises:
            NotFound: there is none of that name.
        """
        async with self._database.read() as connection:
            row = (await connection.execute(select(hosts).where(hosts.c.name == storable(name)))).one_or_none()
        if row is None:
            raise unknown(name)
        return _host(row)

    async def is_active(self, name: str, fingerprint: str | None = None) -> bool:
        """Tell whether a peer of this host may talk to us now.

        Args:
            name: host name from the verified certificate.
            fingerprint: of that certificate; when given it must be one that we issued to the host and that no
                decommissioning revoked.
        """
        query = select(hosts.c.name).where(hosts.c.name == storable(name), hosts.c.status == HostStatus.ACTIVE.value)
        if fingerprint is not None:
            known = select(certificates.c.fingerprint).where(
                certificates.c.fingerprint == storable(fingerprint),
                certificates.c.host == storable(name),
                certificates.c.revoked_at.is_(None),
            )
            query = query.where(known.exists())
        async with self._database.read() as connection:
            return (await connection.execute(query)).first() is not None

    async def redeem(
        self, token_id: str, secret_hash: str, csr_digest: str, now: datetime, issue: Callable[[str], Redemption]
    ) -> str:
        """Trade a token for certificates, once.

        Args:
            token_id: which token.
            secret_hash: hash of the secret that the worker showed, made as for `create`.
            csr_digest: digest of all its CSRs; the same one again gets the same reply again.
            now: aware UTC.
            issue: makes the certificates for the host name given; runs inside the transaction, is quick and does no
                waiting. What it raises undoes everything.

        Returns:
            the reply.

        Raises:
            TrustError: unknown, ended, or used for other CSRs, or the host was decommissioned since.
            Conflict: one of the certificates is recorded already, for a serial number was used twice.
        """
        try:
            async with self._database.write() as connection:
                return await redeem(
                    connection,
                    token_id=token_id,
                    secret_hash=secret_hash,
                    csr_digest=csr_digest,
                    now=now,
                    issue=issue,
                )
        except IntegrityError:
            raise Conflict(f"A certificate of token {token_id} is recorded already", ANOTHER_TOKEN) from None

    async def decommission(self, name: str, now: datetime) -> Host:
        """Refuse the host from now on, and its certificates for ever; harmless when repeated.

        Raises:
            NotFound: there is none of that name.
        """
        async with self._database.write() as connection:
            change = update(hosts).where(hosts.c.name == storable(name)).values(status=HostStatus.DECOMMISSIONED.value)
            if (await connection.execute(change)).rowcount == 0:
                raise unknown(name)
            valid = certificates.c.host == storable(name), certificates.c.revoked_at.is_(None)
            await connection.execute(update(certificates).where(*valid).values(revoked_at=micros(now)))
        return await self.get(name)

    async def seen(self, name: str, version: str, at: datetime) -> None:
        """Note that the host answered; an older sighting than the stored one changes nothing."""
        newer = hosts.c.seen_at.is_(None) | (hosts.c.seen_at < micros(at))
        change = (
            update(hosts)
            .where(hosts.c.name == storable(name), newer)
            .values(version=storable(version[:MAX_VERSION_CHARS]), seen_at=micros(at))
        )
        async with self._database.write() as connection:
            await connection.execute(change)


async def _clear_for_another(connection: AsyncConnection, name: str, status: HostStatus, now: datetime) -> None:
    """Make the name free for a new token, or refuse."""
    if status is HostStatus.ACTIVE:
        raise _taken(name)
    if status is HostStatus.ENROLLED:
        query = select(join_tokens.c.id).where(
            join_tokens.c.host == name,
            join_tokens.c.used_at.is_(None),
            join_tokens.c.revoked_at.is_(None),
            join_tokens.c.expires_at > micros(now),
        )
        if (await connection.execute(query)).first() is not None:
            raise _taken(name)
    await connection.execute(delete(join_tokens).where(join_tokens.c.host == name))


def _host(row: Row[Any]) -> Host:
    return Host(
        name=row.name,
        status=HostStatus(row.status),
        address=None if row.address is None else original(row.address),
        agent_port=row.agent_port,
        updater_port=row.updater_port,
        version=None if row.version is None else original(row.version),
        created_at=moment(row.created_at),
        enrolled_at=None if row.enrolled_at is None else moment(row.enrolled_at),
        seen_at=None if row.seen_at is None else moment(row.seen_at),
        labels={} if row.labels is None else json_object(row.labels),
        capacity=row.capacity,
    )


def _taken(name: str) -> Conflict:
    return Conflict(
        f"The host {name} is enrolled already",
        f"Run `decnet-master swarm decommission {name}` first if it shall join anew, or choose another name.",
    )


def unknown(name: str) -> NotFound:
    """Tell that there is no such host."""
    return NotFound(f"There is no host {name}", "`decnet-master swarm list` shows them all.")
