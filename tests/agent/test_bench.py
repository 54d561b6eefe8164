"""A small run of bench/deckies.py: one decky of a real worker, and nothing of a fast visitor is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.docker, pytest.mark.root]


def test_a_decky_is_measured(decky_image: str) -> None:
    del decky_image
    argv = [sys.executable, "bench/deckies.py", "--deckies", "1", "--rounds", "0", "--secs", "1", "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["deckies"] == 1
    assert found["record"]["typed"] == 2500
    assert found["record"]["programs"] > 0
    assert (found["record"]["lost"], found["record"]["twice"]) == (0, 0)
    for part, key in (("start", "running_secs"), ("memory", "session_pss_mib"), ("memory", "tap_pss_mib")):
        assert found[part][key] > 0, key
