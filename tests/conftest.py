"""Fixtures that every folder of tests shares: the lab's pieces, one of each for the whole session.

A piece that the machine lacks skips the tests that need it, with a line that says what is missing and how to get it.
Where CI=true, that is a failure: there the machine is ours, and a test that never runs proves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.engine import LabEngine
from tests.lab.image import ensure_images
from tests.lab.lan import Lan
from tests.lab.postgres import PostgresCluster
from tests.lab.slots import MissingPart


@contextmanager
def _or_skip() -> Iterator[None]:
    """Turn a missing part into a skip, or into a failure where CI=true."""
    try:
        yield
    except MissingPart as missing:
        reason = f"{missing.message}. {missing.advice}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"missing: {reason}", pytrace=False)
        pytest.skip(f"missing: {reason}")


@pytest.fixture(scope="session")
def lab_engine() -> Iterator[LabEngine]:
    """A private Docker engine, empty but for its images."""
    engine = LabEngine()
    with _or_skip():
        engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def decky_image(lab_engine: LabEngine) -> str:
    """The tag of the SSH decky's image, built and present in `lab_engine`."""
    with _or_skip():
        return ensure_images(lab_engine)


@pytest.fixture(scope="session")
def lan() -> Iterator[Lan]:
    """A network segment with an attacker on it."""
    segment = Lan()
    with _or_skip():
        segment.start()
    yield segment
    segment.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    """A private PostgreSQL cluster."""
    cluster = PostgresCluster()
    with _or_skip():
        cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def postgres_url(postgres: PostgresCluster) -> str:
    """The URL of a database that this test alone uses, and that is empty."""
    return postgres.create_database()
