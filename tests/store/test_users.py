from __future__ import annotations

import pytest

from decnet_core.errors import Conflict, NotFound
from decnet_master.store import Store, User, UserRole
from tests.store.samples import LATER, NOW


async def test_users_come_and_change_their_password(store: Store) -> None:
    assert await store.users.count() == 0
    await store.users.create("admin", "$argon2id$1", "admin", True, NOW)
    assert await store.users.get("admin") == User("admin", "$argon2id$1", UserRole.ADMIN, True, NOW, NOW)
    await store.users.set_password("admin", "$argon2id$2", False, LATER)
    assert await store.users.get("admin") == User("admin", "$argon2id$2", UserRole.ADMIN, False, NOW, LATER)
    assert await store.users.count() == 1


async def test_names_are_taken_once_and_matched_exactly(store: Store) -> None:
    await store.users.create("admin", "h", UserRole.VIEWER, False, NOW)
    with pytest.raises(Conflict):
        await store.users.create("admin", "h", "admin", False, NOW)
    with pytest.raises(NotFound):
        await store.users.get("Admin")
    with pytest.raises(NotFound):
        await store.users.set_password("nobody", "h", False, NOW)
