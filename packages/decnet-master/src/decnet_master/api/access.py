"""Who may ask: a short-lived token, signed with the API's secret, and looked up again with every request.

The token (JWT, HS256) says who and until when; what the user may do is read from the database each time, so that a
user who is removed, or whose password changed, is out at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt
from fastapi import Request

from decnet_core.errors import NotFound
from decnet_master.problems import Unauthenticated
from decnet_master.store import Store, User

_ALGORITHM = "HS256"
_ISSUER = "decnet-master"


@dataclass(frozen=True, slots=True)
class Session:
    """A token that was just made."""

    token: str
    expires_at: datetime


class Access:
    """Makes and checks tokens."""

    def __init__(self, store: Store, secret: str, lifetime: timedelta) -> None:
        self._store = store
        self._secret = secret
        self._lifetime = lifetime

    def open_session(self, user: User, now: datetime) -> Session:
        """Make a token for a user who has just proved to be that user."""
        expires_at = (now + self._lifetime).replace(microsecond=0)
        # `iat` keeps its microseconds: a token is compared with the time of the last change of the password.
        claims = {"iss": _ISSUER, "sub": user.name, "iat": now.timestamp(), "exp": int(expires_at.timestamp())}
        return Session(jwt.encode(claims, self._secret, algorithm=_ALGORITHM), expires_at)

    async def user_of(self, request: Request) -> User:
        """Return who sends this request, and leave it in the request's state for `user_in`.

        It is the dependency of every route that is not open to all.

        Raises:
            Unauthenticated: no token, or one that is forged, ended, or of a user who is gone or has changed the
                password since.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("This needs a login", "Get a token from /api/v1/auth/login and send it as a bearer.")
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                options={"require": ["iss", "sub", "iat", "exp"]},
            )
            user = await self._store.users.get(str(claims["sub"]))
        except (jwt.InvalidTokenError, NotFound):
            raise _ended() from None
        if datetime.fromtimestamp(float(claims["iat"]), UTC) < user.password_changed_at - timedelta(milliseconds=1):
            raise _ended()
        request.state.user = user
        return user


def user_in(request: Request) -> User:
    """Return whom `Access.user_of` found out, in a route behind it."""
    user: User = request.state.user
    return user


def _ended() -> Unauthenticated:
    return Unauthenticated("This session is not or no longer valid", "Log in again.")
