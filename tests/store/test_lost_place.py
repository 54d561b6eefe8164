"""asyncpg loses its place in a connection that dies while it is being cleaned up, and raises what is no database error.

Seen when the server is killed again and again under a listener; a kill cannot be aimed at that moment, so a pool that
raises it stands in for the driver's here.
"""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from decnet_core.errors import RetryLater
from decnet_master.store.bare_drivers import _Postgres
from decnet_master.store.engine import _failures, failure

LOST = asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")


class LostPlace:
    """A pool all of whose connections have lost their place."""

    async def fetch(self, _statement: str, *_values: object) -> list[tuple[Any, ...]]:
        raise LOST


async def test_the_listener_s_driver_says_to_come_again() -> None:
    with pytest.raises(RetryLater):
        await _Postgres(asyncpg, LostPlace()).fetch("SELECT 1", ())


def test_the_store_s_engine_says_to_come_again() -> None:
    url = make_url("postgresql+asyncpg://user@host/name")
    assert isinstance(LOST, _failures(url))
    assert isinstance(failure(LOST, url), RetryLater)
