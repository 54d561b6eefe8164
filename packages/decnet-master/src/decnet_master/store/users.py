"""People who use the API. Passwords come here as argon2id hashes and leave only as such."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from decnet_core.errors import Conflict, NotFound
from decnet_master.store.engine import Database
from decnet_master.store.schema import users
from decnet_master.store.values import micros, moment, original, storable


class UserRole(StrEnum):
    """What a user may do: look; also act; also manage users."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class User:
    """A user; a session that began before `password_changed_at` is over."""

    name: str
    password_hash: str
    role: UserRole
    must_change_password: bool
    created_at: datetime
    password_changed_at: datetime


class Users:
    """The room of the users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, name: str, password_hash: str, role: str, must_change: bool, now: datetime) -> User:
        """Add a user.

        Raises:
            Conflict: the name is taken.
        """
        user = User(name, password_hash, UserRole(role), must_change, now, now)
        row = {
            "name": storable(name),
            "password_hash": password_hash,
            "role": user.role.value,
            "must_change_password": must_change,
            "created_at": micros(now),
            "password_changed_at": micros(now),
        }
        try:
            async with self._database.write() as connection:
                await connection.execute(insert(users).values(row))
        except IntegrityError:
            raise Conflict(f"The user {name} exists already", "Choose another name.") from None
        return user

    async def get(self, name: str) -> User:
        """Look one user up.

        Raises:
            NotFound: there is none of that name.
        """
        async with self._database.read() as connection:
            row = (await connection.execute(select(users).where(users.c.name == storable(name)))).one_or_none()
        if row is None:
            raise _unknown(name)
        return User(
            name=original(row.name),
            password_hash=row.password_hash,
            role=UserRole(row.role),
            must_change_password=row.must_change_password,
            created_at=moment(row.created_at),
            password_changed_at=moment(row.password_changed_at),
        )

    async def set_password(self, name: str, password_hash: str, must_change: bool, now: datetime) -> None:
        """Store another password; sessions that began before are over.

        Raises:
            NotFound: there is none of that name.
        """
        values = {
            "password_hash": password_hash,
            "must_change_password": must_change,
            "password_changed_at": micros(now),
        }
        async with self._database.write() as connection:
            if (
                await connection.execute(update(users).where(users.c.name == storable(name)).values(values))
            ).rowcount == 0:
                raise _unknown(name)

    async def count(self) -> int:
        """Count the users."""
        async with self._database.read() as connection:
            return (await connection.execute(select(func.count()).select_from(users))).scalar_one()


def _unknown(name: str) -> NotFound:
    return NotFound(f"There is no user {name}", "Names are matched exactly.")
