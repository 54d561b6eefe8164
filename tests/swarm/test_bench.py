"""A small run of bench/swarm.py: a real controller and a few workers that are real on the wire."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def test_a_small_fleet_is_measured(tmp_path: Path) -> None:
    argv = [sys.executable, "bench/swarm.py", "--workers", "12", "--deckies", "60", "--folder", str(tmp_path), "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["workers"], found["deckies"]) == (12, 60)
    for key in (
        "plan_secs",
        "dispatch_secs",
        "check_secs",
        "bare_handshakes_secs",
        "check_ratio",
        "heartbeats_per_s",
        "rss_mib",
    ):
        assert found[key] > 0, key
    assert found["dispatch_secs"] <= found["deploy_secs"]
