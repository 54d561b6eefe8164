"""The fuzzer in the suite: a short run with every change, a longer one in the lab tier; and that it would notice."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.fuzz import driver, kept, targets
from tests.fuzz.driver import Batch, batches, inputs, run, summary
from tests.fuzz.target import Target, hold
from tests.fuzz.targets import TARGETS

NAMES = list(TARGETS)

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", NAMES)
def test_every_promise_holds(name: str) -> None:
    result = summary(run([TARGETS[name]], TARGETS[name].share * 10, seed=1))
    assert result["failures"] == []
    assert result["frames"] > TARGETS[name].share * 10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_promise_holds_for_long() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--frames", "400000", "--seed", "2", "--jobs", "2", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    result = json.loads(done.stdout)
    assert (done.returncode, result["crashes"], result["failures"]) == (0, 0, [])
    assert result["frames"] > 400_000
    assert set(result["targets"]) == set(TARGETS)


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    files = [path for path in kept.FOLDER.rglob("*") if path.is_file() and path.name != ".gitattributes"]
    assert {path.parent for path in files} <= {kept.FOLDER / name for name in NAMES}
    assert sum(path.stat().st_size for path in files) <= kept.MAX_TOTAL_BYTES
    for path in files:
        if "-" not in path.name:
            assert path.name == kept.name_of(path.read_bytes())


def test_a_batch_can_be_made_again_and_no_two_are_alike() -> None:
    one = Batch("codec", 7, 3, 50)
    drawn = list(inputs(one))
    assert drawn == list(inputs(one))
    for other in (replace(one, number=4), replace(one, seed=8), replace(one, target="guest")):
        assert drawn != list(inputs(other))


def test_every_target_gets_its_share() -> None:
    chosen = [TARGETS["codec"], TARGETS["collector"], TARGETS["nested"]]
    given = dict.fromkeys(("codec", "collector", "nested"), 0)
    for batch in batches(chosen, 42_001, 0):
        given[batch.target] += batch.frames
    assert given == {"codec": 30_001, "collector": 2_000, "nested": 10_000}


def test_a_parser_that_breaks_is_told_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Target("planted", _fails_on_a_quote, (b"name=value",), (b'"',))
    monkeypatch.setattr(driver, "TARGETS", {"planted": planted})
    result = summary(run([planted], 500, seed=0))
    assert 0 < result["crashes"] < 500
    (failure,) = result["failures"]
    assert failure["target"] == "planted"
    assert "IndexError in _fails_on_a_quote" in failure["error"]


@pytest.mark.parametrize(
    ("module", "name", "worse", "noticed_by"),
    [
        (targets.syslog, "encode", lambda _message: b"<13>1 - - - - - -", "codec"),
        (targets.syslog, "decode", lambda line: (_ for _ in ()).throw(ValueError(line)), "codec"),
        (targets.framing, "encode_frames", lambda _payloads: b"0 ", "framing"),
        (targets.worker, "read_line", lambda line, **_known: line.decode(), "guest"),
        (targets.joining, "usages", lambda der: der[len(der)], "certificate"),
    ],
)  # fmt: skip
def test_a_target_notices_a_worse_parser(
    module: object, name: str, worse: object, noticed_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, worse)
    assert run([TARGETS[noticed_by]], 50, seed=0)[noticed_by].crashes


def _fails_on_a_quote(data: bytes) -> None:
    hold(isinstance(data, bytes), "never")
    if b'"' in data:
        raise IndexError
