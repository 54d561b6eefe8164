"""Login, and "who am I".

A login costs the same whether the user exists or not, so that names cannot be found out by the clock: an unknown
user's password is verified against a hash of nobody's. Hashing runs in threads, two at a time: argon2 takes 64 MiB
and a core for each, and a flood of logins must not take the rest of the API with it. Whoever waits too long for a
turn is sent away.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Request
from pydantic import Field

from decnet_core.errors import NotFound
from decnet_core.fleet import Contract
from decnet_core.logs import shown
from decnet_master import passwords
from decnet_master.api.access import Access, user_in
from decnet_master.problems import TooManyRequests, Unauthenticated
from decnet_master.rate_limit import RateLimit
from decnet_master.store import Store, User

TRIES = 10
TRY_EVERY_SECS = 6.0
"""Each address: ten tries at once, then ten a minute. A person needs three."""

HASHES_AT_ONCE = 2
TURN_SECS = 5.0

log = structlog.get_logger()


class LoginRequest(Contract):
    """A user's name and password."""

    username: Annotated[str, Field(min_length=1, max_length=64)]
    password: Annotated[str, Field(min_length=1, max_length=passwords.MAX_PASSWORD_CHARS)]


class LoginReply(Contract):
    """A token to be sent as `Authorization: Bearer …`."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 -- a scheme's name
    expires_at: datetime
    must_change_password: bool


class Me(Contract):
    """The user that a token belongs to."""

    username: str
    role: str
    must_change_password: bool


def router(store: Store, access: Access) -> tuple[APIRouter, APIRouter]:
    """Build the room's routes: those open to all, and those that need a login."""
    open_to_all, protected = APIRouter(prefix="/auth"), APIRouter(prefix="/auth")
    tries = RateLimit(TRIES, TRY_EVERY_SECS)
    verifier = _Verifier(store)

    @open_to_all.post("/login")
    async def login(request: Request, body: LoginRequest) -> LoginReply:
        came_from = request.client.host if request.client is not None else ""
        tries.take(came_from)
        user = await verifier.user(body.username, body.password)
        if user is None:
            log.warning("login.refused", user=shown(body.username), address=came_from)
            raise Unauthenticated("The user or the password is wrong", "Try again, or ask an administrator.")
        session = access.open_session(user, datetime.now(UTC))
        log.info("login.accepted", user=user.name, address=came_from)
        return LoginReply(
            access_token=session.token,
            expires_at=session.expires_at,
            must_change_password=user.must_change_password,
        )

    @protected.get("/me")
    async def me(request: Request) -> Me:
        user = user_in(request)
        return Me(username=user.name, role=user.role.value, must_change_password=user.must_change_password)

    return open_to_all, protected


class _Verifier:
    """Verifies passwords, a few at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = asyncio.Semaphore(HASHES_AT_ONCE)
        self._hash_of_nobody: str | None = None

    async def user(self, name: str, password: str) -> User | None:
        try:
            user: User | None = await self._store.users.get(name)
        except NotFound:
            user = None
        try:
            async with asyncio.timeout(TURN_SECS):
                await self._turn.acquire()
        except TimeoutError:
            raise TooManyRequests("Too many logins at once", "Wait a moment, then try again.") from None
        try:
            if self._hash_of_nobody is None:
                self._hash_of_nobody = await asyncio.to_thread(passwords.hash_password, passwords.generate())
            password_hash = self._hash_of_nobody if user is None else user.password_hash
            is_right = await asyncio.to_thread(passwords.matches, password_hash, password)
        finally:
            self._turn.release()
        return user if is_right else None
