"""A small run of bench/consoles.py: real containers, the collector and the engine killed, each line once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.docker, pytest.mark.root]


def test_killed_collectors_and_a_killed_engine_lose_no_line(decky_image: str) -> None:
    del decky_image  # built once for all; the bench loads it into an engine of its own
    sizes = ["--containers", "8", "--kills", "2", "--quiet-secs", "1", "--gap-secs", "1.5"]
    argv = [sys.executable, "bench/consoles.py", *sizes, "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["lost"], found["duplicated"], found["reordered"], found["foreign"]) == (0, 0, 0, 0)
    assert (found["containers"], found["kills"], found["restarts"]) == (8, 2, 1)
    assert found["lines"] > 8
    assert found["threads"] < 8
