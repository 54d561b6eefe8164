"""Operators: who may steer this master from another machine, by which certificates, and who may not any more.

    let in ──▶ active ──revoke──▶ revoked ──let in, with another key──▶ active …

A certificate is current while its operator is active, no revoking took it, and it has not ended. Whoever answers an
operator asks for that at every request and, of those who stay connected, every few seconds: so nobody outlives his
certificate on a connection that he keeps. An operator may have several, one for each machine and each renewal.

A key that was revoked is let in by nobody again, whoever signs for it: it may be in a thief's hands. So revoked
certificates are kept for ever; others are forgotten a month after their end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, Update, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from decnet_core.errors import Conflict, NotFound, TrustError
from decnet_master.store.certificates import KEPT_AFTER_END
from decnet_master.store.engine import Database
from decnet_master.store.joining import IssuedCertificate
from decnet_master.store.operator_tables import operator_certificates, operators
from decnet_master.store.values import micros, moment, original, storable

MAX_CURRENT = 16
"""Certificates of one operator that are current: machines, and renewals that overlap. A thief cannot fill a disk."""

SEEN_EVERY = timedelta(minutes=1)
"""How exactly it is known when a certificate was last used."""

Presented = tuple[str, str]
"""An operator's name, and the fingerprint of the certificate that was shown."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Who steers from elsewhere.

    Attributes:
        revoked_at, revoked_by: when and by whom it was refused; None while it is not.
        certificates: how many are current.
        ends_at: when the last of them ends; None when none is current.
        seen_at: when one of them was last used, to the minute.
    """

    name: str
    created_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None
    certificates: int
    ends_at: datetime | None
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class Granted:
    """A certificate (PEM) for an operator's key, and whether it was issued now or had been before."""

    pem: str
    issued: bool


class Operators:
    """The room of the operators."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def let_in(
        self, name: str, key_digest: str, now: datetime, issue: Callable[[], IssuedCertificate]
    ) -> Granted:
        """Give an operator, new, known or revoked before, a certificate for a key; the same key gets the same again.

        Args:
            name: of the operator.
            key_digest: of the key's public half.
            now: aware UTC.
            issue: makes the certificate; runs inside the transaction, is quick and does no waiting. What it raises
                undoes everything.

        Raises:
            TrustError: the key was revoked.
            Conflict: the operator has too many current certificates, or two were let in under one name at once.
        """
        try:
            async with self._database.write() as connection:
                known = await _locked(connection, name)
                if known is None:
                    await connection.execute(insert(operators).values(name=storable(name), created_at=micros(now)))
                elif known.revoked_at is not None:
                    await connection.execute(_of(name).values(revoked_at=None, revoked_by=None))
                return await _give(connection, name, key_digest, now, issue)
        except IntegrityError:
            raise Conflict(f"Somebody else let {name} in at this moment", "Try again.") from None

    async def renew(
        self, presented: Presented, key_digest: str, now: datetime, issue: Callable[[], IssuedCertificate]
    ) -> Granted:
        """Give an operator a certificate for a new key; arguments as for `let_in`.

        Raises:
            TrustError: the operator or the certificate that it shows is not current, or the key was revoked.
            Conflict: it has too many.
        """
        name, fingerprint = presented
        async with self._database.write() as connection:
            await _locked(connection, name)
            shown = operator_certificates.c.fingerprint == storable(fingerprint)
            query = _current(now).where(operators.c.name == storable(name), shown)
            if (await connection.execute(query)).first() is None:
                raise TrustError(f"operator@{name} is not let in here", "Ask who keeps the master.")
            return await _give(connection, name, key_digest, now, issue)

    async def current_among(self, presented: Collection[Presented], now: datetime) -> frozenset[Presented]:
        """Return which certificates of those that operators presented are current, and note that they were used.

        Args:
            presented: at most some hundreds.
            now: aware UTC.
        """
        if not presented:
            return frozenset()
        shown = [storable(fingerprint) for _, fingerprint in presented]
        query = _current(now).where(operator_certificates.c.fingerprint.in_(shown))
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        current = {(original(row.operator), row.fingerprint): row.seen_at for row in rows}
        found = frozenset(presented) & current.keys()
        stale = [one[1] for one in found if (seen := current[one]) is None or seen <= micros(now - SEEN_EVERY)]
        if stale:
            used = update(operator_certificates).where(operator_certificates.c.fingerprint.in_(stale))
            async with self._database.write() as connection:
                await connection.execute(used.values(seen_at=micros(now)))
        return found

    async def list(self, now: datetime) -> list[Operator]:
        """List all operators by name, also the revoked ones."""
        async with self._database.read() as connection:
            rows = (await connection.execute(_summary(now).order_by(operators.c.name))).all()
        return [_operator(row) for row in rows]

    async def depending_on(self, issuer: str, now: datetime) -> tuple[str, ...]:
        """Name the operators who would be cut off if a CA were trusted no more, by its fingerprint.

        Those are who have certificates of it and were not seen with one of another.
        """
        valid = _current(now)
        async with self._database.read() as connection:
            rows = (await connection.execute(valid)).all()
        old = {row.operator for row in rows if row.issuer == issuer}
        moved = {row.operator for row in rows if row.issuer != issuer and row.seen_at is not None}
        return tuple(sorted(map(original, old - moved)))

    async def revoke(self, name: str, by: str, now: datetime) -> Operator:
        """Refuse an operator from now on, and its certificates and keys for ever; harmless when repeated.

        Args:
            name: of the operator.
            by: who says so.
            now: aware UTC.

        Raises:
            NotFound: there is none of that name.
        """
        async with self._database.write() as connection:
            known = await _locked(connection, name)
            if known is None:
                raise NotFound(f"There is no operator {name}", "`decnet-master operator list` shows them all.")
            if known.revoked_at is None:
                await connection.execute(_of(name).values(revoked_at=micros(now), revoked_by=storable(by)))
            valid = operator_certificates.c.operator == storable(name), operator_certificates.c.revoked_at.is_(None)
            await connection.execute(update(operator_certificates).where(*valid).values(revoked_at=micros(now)))
            row = (await connection.execute(_summary(now).where(operators.c.name == storable(name)))).one()
        return _operator(row)


async def _give(
    connection: AsyncConnection, name: str, key_digest: str, now: datetime, issue: Callable[[], IssuedCertificate]
) -> Granted:
    certificates = operator_certificates.c
    query = select(operator_certificates).where(certificates.key_digest == key_digest)
    for row in await connection.execute(query):
        if row.revoked_at is not None:
            raise TrustError("The key of this request was revoked", "Make a new one: `decnet-master operator request`.")
        if row.operator == storable(name) and row.not_after > micros(now):
            return Granted(row.pem, issued=False)
    mine = certificates.operator == storable(name), certificates.revoked_at.is_(None)
    count = select(func.count()).where(*mine, certificates.not_after > micros(now))
    if (await connection.execute(count)).scalar_one() >= MAX_CURRENT:
        raise Conflict(
            f"{name} has {MAX_CURRENT} certificates that are current",
            f"Wait until one has ended, or run `decnet-master operator revoke {name}` and let in anew who is to stay.",
        )
    await connection.execute(
        delete(operator_certificates).where(*mine, certificates.not_after < micros(now - KEPT_AFTER_END))
    )
    issued = issue()
    await connection.execute(
        insert(operator_certificates).values(
            fingerprint=issued.fingerprint,
            operator=storable(name),
            issued_at=micros(now),
            not_after=micros(issued.not_after),
            serial=issued.serial,
            key_digest=key_digest,
            issuer=issued.issuer,
            pem=issued.pem,
        )
    )
    return Granted(issued.pem, issued=True)


async def _locked(connection: AsyncConnection, name: str) -> Row[Any] | None:
    query = select(operators).where(operators.c.name == storable(name)).with_for_update()
    return (await connection.execute(query)).one_or_none()


def _of(name: str) -> Update:
    return update(operators).where(operators.c.name == storable(name))


def _current(now: datetime) -> Select[Any]:
    return (
        select(operator_certificates)
        .join(operators, operators.c.name == operator_certificates.c.operator)
        .where(
            operators.c.revoked_at.is_(None),
            operator_certificates.c.revoked_at.is_(None),
            operator_certificates.c.not_after > micros(now),
        )
    )


def _summary(now: datetime) -> Select[Any]:
    certificates = operator_certificates.c
    valid = (certificates.revoked_at.is_(None)) & (certificates.not_after > micros(now))
    return (
        select(
            operators,
            func.count(certificates.fingerprint).filter(valid).label("valid"),
            func.max(certificates.not_after).filter(valid).label("ends_at"),
            func.max(certificates.seen_at).label("seen_at"),
        )
        .join(operator_certificates, certificates.operator == operators.c.name, isouter=True)
        .group_by(operators.c.name)
    )


def _operator(row: Row[Any]) -> Operator:
    return Operator(
        name=original(row.name),
        created_at=moment(row.created_at),
        revoked_at=None if row.revoked_at is None else moment(row.revoked_at),
        revoked_by=None if row.revoked_by is None else original(row.revoked_by),
        certificates=row.valid,
        ends_at=None if row.ends_at is None else moment(row.ends_at),
        seen_at=None if row.seen_at is None else moment(row.seen_at),
    )
