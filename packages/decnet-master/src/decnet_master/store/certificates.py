"""Certificates that the CA issued to workers: given once for a key, known by their fingerprint, seen when used.

A certificate is current while its host is active, it was recorded here, and no decommissioning revoked it. Whoever
talks to a peer asks for that at every request or connection: an end in the certificate only bounds a lost database.

Renewing is one transaction that holds the host's row: it asks whether the holder may, gives the certificate that a
key already has, issues for the keys that have none, and records them. An answer lost on the way costs nothing.

`seen_at` is when a certificate was first presented to us, which proves that its holder has stored it. A change of CAs
is over when each worker was seen with a certificate of the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_core.errors import Conflict, TrustError
from decnet_core.identity import Identity, Role
from decnet_master.store.engine import Database
from decnet_master.store.joining import HostStatus, IssuedCertificate, record_certificates
from decnet_master.store.schema import certificates, hosts
from decnet_master.store.values import micros, moment, original, storable

KEPT_AFTER_END = timedelta(days=30)
"""How long an ended certificate is remembered: longer than any connection that was made with it is likely to live."""

_JOIN_AGAIN = (
    "Enrol this worker again on the master (`decnet-master swarm enroll`), then run `decnet-agent join` there."
)


@dataclass(frozen=True, slots=True)
class Renewed:
    """What a renewal came to.

    Attributes:
        pems: a certificate for each identity that was asked for.
        issued: how many of them are new.
    """

    pems: Mapping[str, str]
    issued: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How an active host stands: its newest agent certificate, and the newest that it was seen with.

    `None` is unknown: nothing recorded, nothing seen, or recorded by an older release.
    """

    host: str
    not_after: datetime | None
    issuer: str | None
    used_issuer: str | None
    used_not_after: datetime | None


class Certificates:
    """The room of the workers' certificates."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def renew(
        self,
        holder: Identity,
        fingerprint: str,
        keys: Mapping[str, str],
        now: datetime,
        issue: Callable[[frozenset[str], str | None], tuple[IssuedCertificate, ...]],
        *,
        address: str | None = None,
    ) -> Renewed:
        """Give a worker certificates for new keys.

        Args:
            holder: who asks, by its verified certificate: the agent of the host.
            fingerprint: of that certificate.
            keys: for each identity asked for, the digest of its public key.
            now: aware UTC.
            issue: makes the certificates of some of these identities, for a host of that address; runs inside the
                transaction, is quick and does no waiting. What it raises undoes everything.
            address: where the master reaches the worker, for one of which it is not known.

        Raises:
            TrustError: the holder is no agent, its host is not active, or its certificate is not current.
            Conflict: a certificate is recorded already, for a serial number was used twice.
        """
        try:
            async with self._database.write() as connection:
                known = await _holder(connection, holder, fingerprint, now)
                if known is None and address is not None:
                    change = update(hosts).where(hosts.c.name == storable(holder.host))
                    await connection.execute(change.values(address=storable(address)))
                    known = address
                found = await _issued_before(connection, keys, now)
                missing = frozenset(keys) - found.keys()
                issued = issue(missing, known) if missing else ()
                await record_certificates(connection, holder.host, issued, now)
                await _forget_ended(connection, holder.host, now)
        except IntegrityError:
            raise Conflict("A certificate of this request is recorded already", "Ask again.") from None
        return Renewed({**found, **{certificate.identity: certificate.pem for certificate in issued}}, len(issued))

    async def is_current(self, identity: Identity, fingerprint: str, now: datetime) -> bool:
        """Tell whether a certificate that an identity presented is current, and remember that it was seen."""
        return bool(await self.current_among([(identity, fingerprint)], now))

    async def current_among(
        self, presented: Collection[tuple[Identity, str]], now: datetime
    ) -> frozenset[tuple[Identity, str]]:
        """Return which certificates of those that identities presented are current, and remember that they were seen.

        Args:
            presented: identity and fingerprint; at most some thousand.
            now: aware UTC.
        """
        query = (
            select(certificates.c.fingerprint, certificates.c.identity, certificates.c.seen_at)
            .join(hosts, hosts.c.name == certificates.c.host)
            .where(
                certificates.c.fingerprint.in_([storable(fingerprint) for _, fingerprint in presented]),
                certificates.c.revoked_at.is_(None),
                hosts.c.status == HostStatus.ACTIVE.value,
            )
        )
        async with self._database.read() as connection:
            rows = {(row.identity, row.fingerprint): row.seen_at for row in await connection.execute(query)}
        current = {one: (str(one[0]), storable(one[1])) for one in presented}
        unseen = [one[1] for one, key in current.items() if key in rows and rows[key] is None]
        if unseen:
            async with self._database.write() as connection:
                await _see(connection, unseen, now)
        return frozenset(one for one, key in current.items() if key in rows)

    async def updaters_seen(self) -> frozenset[str]:
        """Name the active hosts whose updater has answered us: those that have one, for it is optional."""
        query = (
            select(hosts.c.name)
            .join(certificates, certificates.c.host == hosts.c.name)
            .where(
                certificates.c.identity.startswith(f"{Role.UPDATER}@"),
                certificates.c.seen_at.is_not(None),
                certificates.c.revoked_at.is_(None),
                hosts.c.status == HostStatus.ACTIVE.value,
            )
        )
        async with self._database.read() as connection:
            return frozenset((await connection.execute(query)).scalars())

    async def standings(self) -> list[Standing]:
        """Tell of each active host, by name, which certificates its agent has."""
        query = (
            select(
                hosts.c.name,
                certificates.c.issuer,
                certificates.c.not_after,
                certificates.c.seen_at,
            )
            .join(
                certificates,
                (certificates.c.host == hosts.c.name)
                & certificates.c.identity.startswith(f"{Role.AGENT}@")
                & certificates.c.revoked_at.is_(None),
                isouter=True,
            )
            .where(hosts.c.status == HostStatus.ACTIVE.value)
            .order_by(hosts.c.name, certificates.c.issued_at)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        found: dict[str, Standing] = {}
        for row in rows:  # oldest first: the last one counts
            ends = None if row.not_after is None else moment(row.not_after)
            before = found.get(row.name)
            used = (row.issuer, ends) if row.seen_at is not None else (None, None)
            if row.seen_at is None and before is not None:
                used = (before.used_issuer, before.used_not_after)
            found[row.name] = Standing(original(row.name), ends, row.issuer, *used)
        return list(found.values())


async def _holder(connection: AsyncConnection, holder: Identity, fingerprint: str, now: datetime) -> str | None:
    """Lock the holder's host and return its address."""
    query = select(hosts.c.status, hosts.c.address).where(hosts.c.name == storable(holder.host)).with_for_update()
    host = (await connection.execute(query)).one_or_none()
    if holder.role is not Role.AGENT or host is None or host.status != HostStatus.ACTIVE:
        raise TrustError(f"{holder} may not renew: its host is not active here", _JOIN_AGAIN)
    query = select(certificates.c.identity).where(
        certificates.c.fingerprint == storable(fingerprint), certificates.c.revoked_at.is_(None)
    )
    if (await connection.execute(query)).scalar_one_or_none() != str(holder):
        raise TrustError(f"{holder} may not renew: its certificate is not one that is current here", _JOIN_AGAIN)
    await _see(connection, [fingerprint], now)
    return None if host.address is None else original(host.address)


async def _see(connection: AsyncConnection, fingerprints: Collection[str], now: datetime) -> None:
    unseen = certificates.c.fingerprint.in_(list(map(storable, fingerprints))), certificates.c.seen_at.is_(None)
    await connection.execute(update(certificates).where(*unseen).values(seen_at=micros(now)))


async def _issued_before(connection: AsyncConnection, keys: Mapping[str, str], now: datetime) -> dict[str, str]:
    query = select(certificates.c.identity, certificates.c.key_digest, certificates.c.pem).where(
        certificates.c.identity.in_(list(keys)),
        certificates.c.key_digest.in_(list(keys.values())),
        certificates.c.revoked_at.is_(None),
        certificates.c.not_after > micros(now),
        certificates.c.pem.is_not(None),
    )
    rows = (await connection.execute(query)).all()
    return {row.identity: row.pem for row in rows if keys[row.identity] == row.key_digest}


async def _forget_ended(connection: AsyncConnection, host: str, now: datetime) -> None:
    ended = certificates.c.host == storable(host), certificates.c.not_after < micros(now - KEPT_AFTER_END)
    await connection.execute(delete(certificates).where(*ended))
