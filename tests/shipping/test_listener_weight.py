"""The listener holds what it needs and nothing else: its memory is for workers' lines."""

from __future__ import annotations

import subprocess
import sys

import pytest

from decnet_master.listener.committer import FULL_BYTES, GROUP_BYTES
from decnet_master.listener.read_buffer import BUDGET_BYTES

HEAVY = ("sqlalchemy", "alembic", "aiosqlite", "asyncpg", "cryptography.x509", "fastapi", "typer", "httpx")

BUFFERS_MIB = 16
"""What load may add to the 43 MiB at rest: lines that wait, buffers of busy connections, and lines being parsed."""


@pytest.fixture(scope="module")
def imported() -> set[str]:
    code = "import sys, decnet_master.listener.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", HEAVY)
def test_it_does_not_import(imported: set[str], name: str) -> None:
    assert "decnet_master.store.doorbook" in imported
    assert name not in imported


def test_what_may_wait_in_memory_is_bounded() -> None:
    # What waits (the group that is being written is a part of it), the read buffers, and as much again being parsed.
    assert GROUP_BYTES < FULL_BYTES
    assert FULL_BYTES + 2 * BUDGET_BYTES <= BUFFERS_MIB << 20
