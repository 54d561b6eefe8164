"""The machines of the tier, and the table of what tells, which stands at the end of every run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.engine import LabEngine
from tests.lab.lan import Lan
from tests.stealth.machines import Machine, looked_at
from tests.stealth.tells import TELLS, Verdict, verdict

_TABLE = pytest.StashKey[list[str]]()

Machines = tuple[Machine, Machine, Machine]


@pytest.fixture(scope="module")
def machines(
    tmp_path_factory: pytest.TempPathFactory, lab_engine: LabEngine, lan: Lan, decky_image: str
) -> Iterator[Machines]:
    """Two deckies and the control, looked at."""
    del decky_image  # what has telnet as well is prepared with it
    with looked_at(tmp_path_factory.mktemp("worker"), lab_engine, lan) as machines:
        yield machines


@pytest.fixture(scope="module")
def verdicts(machines: Machines, pytestconfig: pytest.Config) -> dict[str, tuple[Verdict, Verdict, Verdict]]:
    """What each tell is worth on each machine, by its name; put into the table as well."""
    seen = [machine.seen for machine in machines]
    found = {}
    for tell in TELLS:
        one, other, control = seen
        found[tell.name] = (
            verdict(tell, one, other, control),
            verdict(tell, other, one, control),
            verdict(tell, control, one, control),
        )
    rows = [f"{'tell':<48} {machines[0].name:<9} {machines[1].name:<9} control  why"]
    for name, (one, other, control) in found.items():
        rows.append(f"{name:<48} {one.word:<9} {other.word:<9} {control.word:<8} {(one.why or other.why)[:70]}")
    for word in ("pass", "soft", "fail"):
        counts = [sum(each[machine].word == word for each in found.values()) for machine in range(3)]
        rows.append(f"{word:<48} {counts[0]:<9} {counts[1]:<9} {counts[2]}")
    pytestconfig.stash[_TABLE] = rows
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, whatever became of the tests."""
    if rows := config.stash.get(_TABLE, None):
        terminalreporter.section("what gives a decoy away")
        for row in rows:
            terminalreporter.write_line(row)
