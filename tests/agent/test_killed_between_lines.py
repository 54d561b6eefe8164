"""The agent is killed again and again while many consoles flow: every line that was printed is one event, in order."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from decnet_agent.engine.labels import LABEL_DECKY, LABEL_SERVICES
from tests.agent.worker import Worker, read_events
from tests.lab.engine import LabEngine

pytestmark = [pytest.mark.docker, pytest.mark.root]

CONTAINERS = 8
LINES = 3_000
KILLS = 8
BURST = 100
# Bursts of lines within one nanosecond or many, both streams, and a pause so that kills fall among them all.
SCRIPT = f"""
i=0
while [ $i -lt {LINES} ]; do
    echo "line $i"
    i=$((i+1))
    [ $((i % {BURST})) -eq 0 ] && sleep 0.3
done
exec sleep 3600
"""


@pytest.fixture
def consoles(lab_engine: LabEngine, decky_image: str) -> Iterator[dict[str, str]]:
    """Start the containers; gives source of events -> name of the decky."""
    lab_engine.sweep()
    with closing(lab_engine.client()) as client:
        started = {}
        for number in range(CONTAINERS):
            name = f"web{number:02}"
            container = client.containers.run(
                decky_image,
                ["-c", SCRIPT],
                entrypoint=["/bin/sh"],
                detach=True,
                network_mode="none",
                tty=number % 2 == 0,
                labels={LABEL_DECKY: name, LABEL_SERVICES: "ssh"},
            )
            started[f"container:{container.id}"] = name
        yield started
    lab_engine.sweep()


@pytest.fixture
def worker(tmp_path: Path, lab_engine: LabEngine, consoles: dict[str, str]) -> Iterator[Worker]:
    del consoles
    with Worker(tmp_path, docker_host=lab_engine.docker_host) as worker:
        yield worker


def test_every_line_is_one_event(worker: Worker, consoles: dict[str, str]) -> None:
    draw = random.Random(3)
    for _ in range(KILLS):
        time.sleep(draw.uniform(0.3, 1.5))  # a pace, not a wait: the kills fall among the lines
        worker.daemon.kill()
        worker.daemon.start()
    worker.daemon.wait_until(
        lambda: sum(map(len, numbers(worker, consoles).values())) >= CONTAINERS * LINES, "all lines", timeout_secs=120
    )
    found = numbers(worker, consoles)
    for source, name in consoles.items():
        assert found[source] == list(range(LINES)), name
    assert worker.daemon.stop() == 0
    assert numbers(worker, consoles) == found


def numbers(worker: Worker, consoles: dict[str, str]) -> dict[str, list[int]]:
    """Read the numbers that each console's events carry, in the order of the log."""
    folder = worker.event_log.parent
    files = [*sorted(folder.glob("events.log.*"), key=lambda path: path.stat().st_mtime_ns), worker.event_log]
    found: dict[str, list[int]] = defaultdict(list)
    for event in (event for path in files if path.exists() for event in read_events(path)):
        if event.source in consoles:
            assert event.decky == consoles[event.source]
            assert event.event_type == "guest.line", event
            word, _, number = event.text.strip().partition(" ")
            assert word == "line"
            found[event.source].append(int(number))
    return found
