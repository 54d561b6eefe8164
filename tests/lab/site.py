"""A whole site on this machine: a master, one worker, a LAN with an attacker; every program its own process.

    folder/master/{data,log,run}  decnet.ini      `decnet-master serve` and its four children
    folder/worker/{data,log,run}  decnet.ini      `decnet-agent serve`, which brings up logship and the tap
                                                  `decnet-updater serve`

All listen on loopback ports that were free a moment ago; the deckies hang on the LAN's parent interface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from decnet_core.errors import Unavailable
from tests.lab.headquarters import Headquarters
from tests.lab.lan import Lan
from tests.lab.processes import free_port, stop_all
from tests.lab.uncontain import uncontain

_TAP_SECS = 30.0  # its programs are in the kernel within a second; a loaded machine takes its time
WORKER = "w1"


class Site(Headquarters):
    """One master and one worker: `with Site(folder, engine.docker_host, lan) as site: site.master_cli("deploy", …)`.

    Args:
        folder: empty; takes all state and logs.
        docker_host: the engine of the worker.
        lan: where its deckies live.
        progress, api_port, master_keys: as of `Headquarters`.
    """

    def __init__(
        self,
        folder: Path,
        docker_host: str,
        lan: Lan,
        *,
        progress: Callable[[str], None] = lambda _line: None,
        api_port: int | None = None,
        master_keys: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder, progress=progress, api_port=api_port, master_keys=master_keys)
        self.lan = lan
        self._docker_host = docker_host
        self.ports |= {name: free_port() for name in ("agent", "updater")}
        self.agent = self.daemon("worker", "decnet-agent", "serve")
        self.updater = self.daemon("worker", "decnet-updater", "serve")

    def start(self) -> None:
        """Bring the whole site up, the worker enrolled, nothing deployed."""
        self.start_master()
        self.enrol()
        self.start_worker()

    def start_master(self) -> None:
        """Configure both sides, initialise and start the master."""
        self._configure_worker()
        super().start_master()

    def enrol(self) -> None:
        """Enrol this machine as the worker."""
        self._progress(f"worker {WORKER}: join by a one-time token")
        self.join("worker", WORKER)

    def start_worker(self) -> None:
        """Start the agent (with logship and the tap beside it) and the updater."""
        self._progress(f"worker {WORKER}: agent, logship, tap and updater")
        self.agent.start()
        self.updater.start()
        self.agent.wait_for_port(self.ports["agent"])
        self.updater.wait_for_port(self.ports["updater"])
        self.wait_for_tap()

    def wait_for_tap(self) -> None:
        """Wait until the agent says that the tap delivers to it.

        Raises:
            Unavailable: it does not; the message holds what `decnet-agent doctor` finds.
        """
        try:
            self.agent.wait_until(self._taps, "tap in the agent's status", timeout_secs=_TAP_SECS)
        except Unavailable as cause:
            found = self.attempt("worker", ["decnet-agent", "doctor"])
            raise Unavailable(f"The tap does not deliver: {cause.message}", found.stdout + found.stderr) from cause

    def _taps(self) -> bool:
        asked = self.attempt("master", ["decnet-master", "swarm", "check", "--json"])
        return asked.returncode == 0 and '"kernel"' in asked.stdout

    def stop(self) -> None:
        """End every process; the engine's owner removes the deckies."""
        stop_all((self.updater, self.agent, self.master))
        uncontain(self.lan.parent)

    def _configure_worker(self) -> None:
        addresses = self.lan.subnet
        upper_half = list(addresses.subnets(prefixlen_diff=1))[1]  # the attacker sits in the lower one
        self.write_ini(
            "worker",
            {
                "agent": {
                    "agent-address": f"127.0.0.1:{self.ports['agent']}",
                    "docker-host": self._docker_host,
                    "interface": self.lan.parent,
                    "subnet": addresses,
                    "ip-range": upper_half,
                },
                "updater": {"updater-address": f"127.0.0.1:{self.ports['updater']}"},
            },
        )
