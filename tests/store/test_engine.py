from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from decnet_master.store.engine import _SqliteConnection


def test_a_connection_lets_go_of_its_lock_and_may_be_closed_twice(tmp_path: Path) -> None:
    """The pool closes a connection of a cancelled task that its driver may have closed by itself."""
    closing = sqlite3.connect(tmp_path / "db", isolation_level=None, factory=_SqliteConnection)
    closing.execute("BEGIN IMMEDIATE")
    cursor = closing.execute("SELECT 1")  # a cursor that lives on would hold the lock
    closing.close()
    closing.close()
    with pytest.raises(sqlite3.ProgrammingError):
        cursor.fetchone()
    other = sqlite3.connect(tmp_path / "db", isolation_level=None, timeout=0)
    other.execute("BEGIN IMMEDIATE")
    other.close()
