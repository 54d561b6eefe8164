"""One CA for all tests of shipping: making keys is what costs time."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from decnet_core.pki.authority import CertificateAuthority
from tests.shipping.place import Place


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority.open_or_create(tmp_path_factory.mktemp("ca"), "Test CA", None, datetime.now(UTC))


@pytest.fixture
def place(tmp_path: Path, authority: CertificateAuthority) -> Iterator[Place]:
    return Place.make(tmp_path, authority)
