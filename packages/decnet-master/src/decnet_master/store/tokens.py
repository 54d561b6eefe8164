"""Join tokens: what was given out, and taking one back.

A token is `open` until it is used, revoked or has ended. Revoking one leaves its host enrolled and without a token: the
name may be enrolled again at once. Making and redeeming a token are the hosts' business (`hosts`, `joining`).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, select, update

from decnet_core.errors import Conflict, NotFound, TrustError
from decnet_master.store.engine import Database
from decnet_master.store.joining import ANOTHER_TOKEN, HostStatus
from decnet_master.store.schema import hosts, join_tokens
from decnet_master.store.values import micros, moment, original, storable


class TokenState(StrEnum):
    """Where a token stands."""

    OPEN = "open"
    USED = "used"
    REVOKED = "revoked"
    ENDED = "ended"


_REFUSED = {TokenState.USED: "was used already", TokenState.REVOKED: "was revoked", TokenState.ENDED: "has ended"}


@dataclass(frozen=True, slots=True)
class Token:
    """A join token, without its secret; `created_at` is unknown of one that an older release made."""

    id: str
    host: str
    state: TokenState
    created_at: datetime | None
    expires_at: datetime


class Tokens:
    """The room of the join tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, now: datetime) -> list[Token]:
        """List all tokens, the last to end first."""
        query = select(join_tokens).order_by(join_tokens.c.expires_at.desc(), join_tokens.c.id)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [_token(row, now) for row in rows]

    async def holder(self, token_id: str, secret_hash: str, now: datetime) -> str:
        """Return the host that an open token is for, and leave the token as it is.

        Raises:
            TrustError: it is not known, was used or revoked, or has ended.
        """
        query = (
            select(join_tokens, hosts.c.status)
            .join(hosts, hosts.c.name == join_tokens.c.host)
            .where(join_tokens.c.id == storable(token_id))
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        # As when it is redeemed: nobody learns which tokens exist.
        if row is None or not hmac.compare_digest(row.secret_hash, secret_hash):
            raise TrustError("This join token is not known", ANOTHER_TOKEN)
        state = _token(row, now).state
        if state is TokenState.OPEN and row.status != HostStatus.ENROLLED:
            state = TokenState.ENDED
        if state is not TokenState.OPEN:
            raise TrustError(f"This join token {_REFUSED[state]}", ANOTHER_TOKEN)
        return original(row.host)

    async def revoke(self, token_id: str, now: datetime) -> Token:
        """Refuse a token from now on; harmless when repeated, and for one that has ended.

        Raises:
            NotFound: there is none of that id.
            Conflict: it was used already.
        """
        async with self._database.write() as connection:
            query = select(join_tokens).where(join_tokens.c.id == storable(token_id))
            row = (await connection.execute(query.with_for_update())).one_or_none()
            if row is None:
                raise NotFound(
                    f"There is no join token {token_id}", "`decnet-master swarm tokens list` shows them all."
                )
            if row.used_at is not None:
                raise Conflict(
                    f"The join token {token_id} was used already, by {original(row.host)}",
                    f"`decnet-master swarm decommission {original(row.host)}` refuses the worker.",
                )
            if row.revoked_at is None:
                change = update(join_tokens).where(join_tokens.c.id == row.id).values(revoked_at=micros(now))
                await connection.execute(change)
            row = (await connection.execute(query)).one()
        return _token(row, now)


def _token(row: Row[Any], now: datetime) -> Token:
    if row.used_at is not None:
        state = TokenState.USED
    elif row.revoked_at is not None:
        state = TokenState.REVOKED
    else:
        state = TokenState.ENDED if micros(now) >= row.expires_at else TokenState.OPEN
    return Token(
        id=row.id,
        host=original(row.host),
        state=state,
        created_at=None if row.created_at is None else moment(row.created_at),
        expires_at=moment(row.expires_at),
    )
