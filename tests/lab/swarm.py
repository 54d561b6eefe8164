"""A master with several workers on this machine, each worker on a host of its own (`worker_hosts`).

folder/master/{data,log,run}  decnet.ini      `decnet-master serve` and its four children
folder/w1/{data,log,run}      decnet.ini      on host w1: `decnet-agent serve` with logship and the tap,
folder/w2/…                                               `decnet-updater serve`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.headquarters import Headquarters
from tests.lab.processes import Daemon, stop_all
from tests.lab.worker_hosts import Backbone, WorkerHost

_AGENT_PORT, _UPDATER_PORT = 8765, 8766  # every host has all its ports for itself
_UP_SECS = 60.0


@dataclass(frozen=True)
class Worker:
    """A worker of the swarm: its host, and the daemons on it."""

    host: WorkerHost
    agent: Daemon
    updater: Daemon

    @property
    def name(self) -> str:
        """Of the worker."""
        return self.host.name

    def start(self) -> None:
        """Start its daemons; `wait` waits until they answer."""
        self.agent.start()
        self.updater.start()

    def wait(self) -> None:
        """Wait until its daemons answer."""
        self.agent.wait_for_port(_AGENT_PORT, host=str(self.host.address), timeout_secs=_UP_SECS)
        self.updater.wait_for_port(_UPDATER_PORT, host=str(self.host.address), timeout_secs=_UP_SECS)


class Swarm(Headquarters):
    """`with Swarm(folder, backbone, hosts) as swarm: swarm.master_cli("deploy", …)`: all enrolled, nothing deployed."""

    def __init__(
        self,
        folder: Path,
        backbone: Backbone,
        hosts: Sequence[WorkerHost],
        *,
        progress: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._hosts = {host.name: host for host in hosts}
        super().__init__(folder, progress=progress, address=str(backbone.host(1)))
        self.workers = {
            name: Worker(host, self.daemon(name, "decnet-agent", "serve"), self.daemon(name, "decnet-updater", "serve"))
            for name, host in self._hosts.items()
        }

    def argv(self, side: str, program: str, *arguments: str) -> list[str]:
        """Return the command line of a program on a side."""
        argv = super().argv(side, program, *arguments)
        return self._hosts[side].argv(argv) if side in self._hosts else argv

    def start(self) -> None:
        """Bring everything up."""
        self.start_master()
        for name, worker in self.workers.items():
            self._progress(f"worker {name}: join by a one-time token")
            self._configure(worker.host)
            self.join(name, name)
            worker.start()
        for worker in self.workers.values():
            worker.wait()
        self.master.wait_until(self._all_tap, "answer of every worker with its tap", timeout_secs=_UP_SECS)

    def stop(self) -> None:
        """End every process; the engines' owner removes the deckies."""
        stop_all([self.master, *(each for one in self.workers.values() for each in (one.updater, one.agent))])

    def check(self) -> list[dict[str, Any]]:
        """Ask every active worker how it is; those that do not answer are in it too."""
        asked = self.attempt("master", ["decnet-master", "swarm", "check", "--json"])
        results: list[dict[str, Any]] = json.loads(asked.stdout)["results"] if asked.stdout else []
        return results

    def deckies(self) -> list[dict[str, Any]]:
        """List the fleet as the operator sees it."""
        listed: list[dict[str, Any]] = json.loads(self.master_cli("deckies", "--json"))["deckies"]
        return listed

    def _all_tap(self) -> bool:
        return [row.get("taps") for row in self.check()] == ["kernel"] * len(self.workers)

    def _configure(self, host: WorkerHost) -> None:
        # Nothing of its LAN: interface and subnet are the worker's to make out.
        agent = {"agent-address": f"{host.address}:{_AGENT_PORT}", "docker-host": host.engine.docker_host}
        updater = {"updater-address": f"{host.address}:{_UPDATER_PORT}"}
        self.write_ini(host.name, {"agent": agent, "updater": updater})
