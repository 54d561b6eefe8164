from __future__ import annotations

import pytest

from tests.pki.world import DAY, Ca, now


@pytest.fixture(scope="session")
def ca() -> Ca:
    return Ca.make(now() - 30 * DAY)


@pytest.fixture(scope="session")
def impostor() -> Ca:
    """Another CA that calls itself the same."""
    return Ca.make(now() - 30 * DAY)
