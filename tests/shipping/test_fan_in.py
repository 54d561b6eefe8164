"""Many senders at one listener, which is killed with all of them connected: a small run of bench/fan_in.py."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.crowd import line_of, stream_of
from bench.fan_in import count
from decnet_master.journal.record import Block
from decnet_master.journal.writer import JournalWriter

BENCH = Path(__file__).resolve().parents[2] / "bench" / "fan_in.py"
SENDERS = 40
SECS = 2
WAIT_SECS = 170.0  # some 20 s on a quiet machine


@pytest.mark.slow
def test_many_senders_lose_nothing_and_all_come_back(tmp_path: Path) -> None:
    sizes = ["--senders", str(SENDERS), "--secs", str(SECS), "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(BENCH), *sizes, "--json"], capture_output=True, text=True, timeout=WAIT_SECS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["lost"], result["duplicated"], result["altered"]) == (0, 0, 0)
    assert result["lines"] > SENDERS * SECS * 10
    assert result["storm"]["failures"] >= SENDERS
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]


def journaled(folder: Path, name: str, lines: list[bytes]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    writer = JournalWriter.open(folder)
    writer.append([Block(f"logship@{name}", stream_of(name), 0, len(data), datetime.now(UTC), data)])
    writer.close()


@pytest.mark.parametrize(
    ("numbers", "written", "fault"),
    [
        ((0, 1, 2), 3, None),
        ((0, 1, 2), 4, "lost"),
        ((0, 1, 1, 2), 3, "duplicated"),
        ((0, 2, 1), 3, "altered"),
    ],
)
def test_the_count_tells_each_fault(tmp_path: Path, numbers: tuple[int, ...], written: int, fault: str | None) -> None:
    journaled(tmp_path, "w1", [line_of("w1", number) for number in numbers])
    found = count(tmp_path, {"w1": written})
    assert all(found[name] == 0 for name in found) if fault is None else found[fault] > 0
