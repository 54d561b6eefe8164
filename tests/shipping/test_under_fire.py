"""Exactly once, from the agent's event log into the database, while everything fails: small runs of bench/faults.py."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.fire.numbered import foreign_text, numbered
from bench.fire.strikes import deal
from bench.fire.tally import OURS, THEIRS, Row, Tally
from bench.fire.tally import Counter as RowCounter

BENCH = Path(__file__).resolve().parents[2] / "bench" / "faults.py"
KILLS = 12
LINES = 24_000
WAIT_SECS = 170.0  # some 35 s on a quiet machine


def burn(folder: Path, db: str, seed: int) -> dict[str, Any]:
    sizes = ["--kills", str(KILLS), "--lines", str(LINES), "--gap-secs", "0.7"]
    argv = [sys.executable, str(BENCH), *sizes, "--db", db, "--seed", str(seed), "--folder", str(folder), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=WAIT_SECS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
@pytest.mark.parametrize("db", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_nothing_is_lost_nor_twice_whatever_dies(tmp_path: Path, db: str) -> None:
    result = burn(tmp_path, db, seed=11)
    assert (result["lost"], result["duplicated"], result["reordered"]) == (0, 0, 0)
    assert (result["altered"], result["foreign"], result["dead_letters"], result["crashes"]) == (0, 0, 0, 0)
    assert result["miscounted"] == 0
    assert (result["kills"], result["lines"]) == (KILLS, LINES)
    victims = {"writer", "sender", "listener", "ingester"} | ({"database"} if db == "postgres" else set())
    assert result["killed"].keys() == victims
    disk = {"disk"} if os.geteuid() == 0 else set()
    assert result["others"].keys() == {"cut", "freeze", "swallow", "rotate", "rename", "copytruncate", "pause"} | disk
    assert list(tmp_path.iterdir()) == [] or not any(tmp_path.rglob("events.log"))


def rows(worker: str, *numbers: int) -> list[Row]:
    events = [numbered(worker, number) for number in numbers]
    return [(worker, event.source, event.cursor, str(event.event_type), event.text) for event in events]


def head(worker: str, generation: str) -> Row:
    return (worker, f"log:{generation}", "0", "log.opened", "")


@pytest.mark.parametrize(
    ("numbers", "lost", "duplicated", "reordered"),
    [
        ((0, 1, 2, 3), 0, 0, 0),
        ((0, 1, 3), 1, 0, 0),
        ((), 4, 0, 0),
        ((0, 1, 1, 2, 3), 0, 1, 0),
        ((0, 1, 2, 3, 0, 1), 0, 2, 0),
        ((0, 2, 1, 3), 0, 0, 1),
        ((3, 3, 0, 1), 1, 1, 2),
    ],
)
def test_the_count_tells_each_fault(numbers: tuple[int, ...], lost: int, duplicated: int, reordered: int) -> None:
    counter = RowCounter({("w1", OURS): 4, ("w2", OURS): 2})
    counter.take([head("w1", "a"), *rows("w2", 0), *rows("w1", *numbers), head("w2", "b"), *rows("w2", 1)])
    found = counter.finish()
    assert (found.lost, found.duplicated, found.reordered) == (lost, duplicated, reordered)
    assert (found.altered, found.foreign) == (0, 0)
    assert found.is_clean == (not lost and not duplicated and not reordered)


def test_the_count_tells_what_was_altered_or_never_written() -> None:
    [(worker, source, cursor, event_type, text)] = rows("w1", 0)
    for strange in (
        (worker, source, cursor, event_type, text + "x"),
        ("w2", source, cursor, event_type, text),
        ("w9", "fire:w9", cursor, event_type, text),
        (worker, source, "7", event_type, text),
        head("w1", "a"),
    ):
        counter = RowCounter({("w1", OURS): 1, ("w2", OURS): 0})
        counter.take([head("w1", "a"), *rows("w1", 0), strange])
        found = counter.finish()
        assert found.altered + found.foreign >= 1
        assert not found.is_clean
    assert not RowCounter({("w1", OURS): 0}).finish(letters=1).is_clean
    assert RowCounter({("w1", OURS): 0}).finish(derived={"attackers": 0}).is_clean
    assert RowCounter({("w1", OURS): 0}).finish(derived={"attackers": 2, "sessions": 0}).miscounted == 2


def test_the_count_holds_another_program_s_log_to_its_own_numbers() -> None:
    def counted(*numbers: int) -> Tally:
        source = f"logship@w1/{'0' * 32}"
        counter = RowCounter({("w1", OURS): 1, ("w1", THEIRS): 3})
        counter.take(("w1", source, str(at), "guest.line", foreign_text("w1", at)) for at in numbers)
        counter.take(rows("w1", 0))
        return counter.finish(derived={"attackers": 1})

    assert counted(0, 1, 2).is_clean
    assert counted(0, 2).lost == 1
    assert counted(0, 1, 1, 2).duplicated == 1
    assert counted(0, 2, 1).reordered == 1
    assert counted(0, 1, 2, 3).foreign == 1


def test_a_seed_decides_the_plan_and_each_kind_is_dealt() -> None:
    victims, others = ("writer", "sender", "listener"), ("cut", "rotate")
    plan = deal(random.Random(5), 200, victims, others, 1.0)
    assert plan == deal(random.Random(5), 200, victims, others, 1.0)
    assert plan != deal(random.Random(6), 200, victims, others, 1.0)
    dealt = Counter(plan.kinds)
    assert sum(dealt[victim] for victim in victims) == 200
    assert {dealt[victim] for victim in victims} == {66, 67}
    assert dealt["cut"] + dealt["rotate"] == 133
    assert 100 < plan.secs < 600
