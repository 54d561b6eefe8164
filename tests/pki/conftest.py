from __future__ import annotations

import pytest

from tests.pki.world import Ca


@pytest.fixture(scope="session")
def ca() -> Ca:
    return Ca.make()


@pytest.fixture(scope="session")
def impostor() -> Ca:
    """Another CA that calls itself the same."""
    return Ca.make()
