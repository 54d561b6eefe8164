from __future__ import annotations

import os
from pathlib import Path

import pytest

from decnet_core.errors import Unavailable
from tests.packaging.wheels import Wheels, build, copy_tree, uv


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    """A copy of the tree that the wheels are built from."""
    try:
        uv()
    except Unavailable as missing:
        pytest.skip(f"missing: {missing.message}. {missing.advice}")
    return copy_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def wheels(tree, tmp_path_factory) -> Wheels:
    """The five wheels: those that DECNET_WHEELS_DIR names, or built now."""
    scratch = tmp_path_factory.mktemp("wheels")
    given = os.environ.get("DECNET_WHEELS_DIR")
    return Wheels(Path(given).resolve() if given else build(tree, scratch / "dist"), scratch)
