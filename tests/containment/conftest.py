"""Fixtures of the containment tests: one ground, one containment process, one collector for each file."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from decnet_agent.containment.channel import Guard
from decnet_agent.evidence.sensors import serve_evidence
from decnet_core.events import Event, check
from tests.containment.ground import Machine, mac_of, machine, worker_lan
from tests.lab.lan import Lan, ip
from tests.lab.processes import Daemon
from tests.lab.slots import MissingPart

PROGRAM = Path(sys.executable).parent / "decnet-agent"


class Collector:
    """The collector's end of the evidence channel, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.events: list[Event] = []
        self.taps = 0
        self._path = path
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Come back when it listens."""
        self._thread.start()
        assert self._up.wait(10)

    def stop(self) -> None:
        """End it."""
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def blocked(self) -> list[Event]:
        """Return what was told of blocked frames."""
        return [event for event in list(self.events) if event.event_type == "egress.blocked"]

    def _last(self, source: str) -> str | None:
        return next((event.cursor for event in reversed(self.events) if event.source == source), None)

    async def _append(self, events: list[Event]) -> None:
        for event in events:
            check(event)
        self.events += events

    def _run(self) -> None:
        async def serve() -> None:
            self._task = asyncio.create_task(
                serve_evidence(self._path, self._last, self._append, ready=self._up.set, connected=self._connected)
            )
            await asyncio.gather(self._task, return_exceptions=True)

        self._loop.run_until_complete(serve())
        self._loop.close()

    def _connected(self, taps: int) -> None:
        self.taps = taps


@dataclass
class Ground:
    """What the tests stand on."""

    worker: str
    lan: Lan
    a: Machine
    b: Machine
    victim: Machine
    containment: Daemon
    collector: Collector
    guard: Guard

    @property
    def machines(self) -> tuple[Machine, Machine]:
        """The two deckies."""
        return self.a, self.b


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Two machines on one parent, both contained, and a victim on the LAN."""
    folder = tmp_path_factory.mktemp("containment")
    (folder / "run").mkdir()
    ini = folder / "decnet.ini"
    ini.write_text(f"[decnet]\ndata-directory = {folder}/data\nrun-directory = {folder}/run\n")
    collector, guard = Collector(folder / "run/events.sock"), Guard(folder / "run/containment.sock")
    with contextlib.ExitStack() as stack:
        try:
            worker, lan = stack.enter_context(worker_lan())
            a, b = (stack.enter_context(machine(worker, lan, name, host)) for name, host in (("a", 100), ("b", 101)))
        except MissingPart as missing:
            pytest.skip(f"missing: {missing.message}. {missing.advice}")
        collector.start()
        stack.callback(collector.stop)
        daemon = Daemon(
            ["nsenter", f"--net=/run/netns/{worker}", "--", str(PROGRAM), "containment"],
            log_path=folder / "out",
            env={"DECNET_CONFIG": str(ini)},
        )
        with daemon:
            daemon.wait_for_line("containment.started")
            attacker = lan.attacker
            victim = Machine("victim", attacker.netns.name, mac_of(attacker.netns), attacker.address)
            asyncio.run(guard.hold(lan.parent, [a.pair, b.pair]))
            yield Ground(worker, lan, a, b, victim, daemon, collector, guard)
            asyncio.run(guard.keep(lan.parent, []))
            assert "snk" not in ip("-n", worker, "link", "show")
