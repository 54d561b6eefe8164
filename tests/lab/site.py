"""A whole site on this machine: a master, one worker, a LAN with an attacker; every program its own process.

    folder/master/{data,log,run}  decnet.ini      `decnet-master serve` and its four children
    folder/worker/{data,log,run}  decnet.ini      `decnet-agent serve`, which brings up logship and the tap
                                                  `decnet-updater serve`

The master listens on loopback ports that were free a moment ago; the deckies hang on the LAN's parent interface. All
goes through the programs' own commands (init, enroll, join, deploy), as an operator would type them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from decnet_core.errors import Unavailable
from tests.lab.lan import Lan
from tests.lab.processes import Daemon, free_port

_BIN = Path(sys.executable).parent
_COMMAND_SECS = 300.0  # a first deploy composes the image: apt inside a container, on a slow mirror
_TAP_SECS = 30.0  # its programs are in the kernel within a second; a loaded machine takes its time
WORKER = "w1"


class Site:
    """One master and one worker: `with Site(folder, engine.docker_host, lan) as site: site.master_cli("deploy", …)`.

    Args:
        folder: empty; takes all state and logs.
        docker_host: the engine of the worker.
        lan: where its deckies live.
        progress: told what happens, a line each.
        api_port: fixed port of the API; None takes a free one.
        master_keys: more keys of the master's configuration.
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
        self.folder = folder
        self.lan = lan
        self._docker_host = docker_host
        self._master_keys = dict(master_keys or {})
        self._progress = progress
        self.ports = {name: free_port() for name in ("api", "controller", "enrolment", "listener", "agent", "updater")}
        if api_port is not None:
            self.ports["api"] = api_port
        self.admin_password = ""
        self.master = self._daemon("master", "decnet-master", "serve")
        self.agent = self._daemon("worker", "decnet-agent", "serve")
        self.updater = self._daemon("worker", "decnet-updater", "serve")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def api_url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.ports['api']}"

    def start(self) -> None:
        """Bring the whole site up, the worker enrolled, nothing deployed."""
        self.start_master()
        self.enrol()
        self.start_worker()

    def start_master(self) -> None:
        """Initialise and start the master."""
        self._write_configuration()
        self._progress("master: init and serve")
        self.admin_password = json.loads(self.master_cli("init", "--json"))["password"]
        self.master.start()
        self.master.wait_for_http(f"{self.api_url}/readyz", timeout_secs=60)
        self.master.wait_for_port(self.ports["enrolment"])
        self.master.wait_for_port(self.ports["controller"])
        self.master.wait_for_port(self.ports["listener"])

    def enrol(self) -> None:
        """Enrol this machine as the worker, by a token, as an operator would."""
        self._progress(f"worker {WORKER}: join by a one-time token")
        token = json.loads(self.master_cli("swarm", "enroll", WORKER, "--json"))["token"]
        self.run("worker", ["decnet-agent", "join", "-"], text=token)

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
        for daemon in (self.updater, self.agent, self.master):
            daemon.stop()

    def master_cli(self, *arguments: str) -> str:
        """Run one command of the master's and return what it printed.

        Raises:
            Unavailable: it failed; the message holds its last words.
        """
        return self.run("master", ["decnet-master", *arguments])

    def run(self, side: str, argv: Sequence[str], *, text: str | None = None) -> str:
        """Run one of our programs to its end with a side's configuration; see `master_cli`."""
        done = self.attempt(side, argv, text=text)
        if done.returncode != 0:
            raise Unavailable(
                f"`{' '.join(argv)}` ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}",
                f"Logs lie in {self.folder}",
            )
        return done.stdout

    def attempt(
        self, side: str, argv: Sequence[str], *, text: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of our programs to its end, whatever that is; `env` is added to its environment."""
        return subprocess.run(
            [str(_BIN / argv[0]), *argv[1:]],
            input=text or "",
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECS,
            check=False,
            env={**self.environment(side), **(env or {})},
        )

    def environment(self, side: str) -> dict[str, str]:
        """Return the environment of a side's programs: the caller's, and where their configuration lies."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DECNET_")}
        return {**kept, "DECNET_CONFIG": str(self.folder / side / "decnet.ini")}

    def _daemon(self, side: str, program: str, verb: str) -> Daemon:
        return Daemon(
            [str(_BIN / program), verb],
            log_path=self.folder / side / f"{program}.log",
            env={"DECNET_CONFIG": str(self.folder / side / "decnet.ini")},
        )

    def _write_configuration(self) -> None:
        local = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        addresses = self.lan.subnet
        upper_half = list(addresses.subnets(prefixlen_diff=1))[1]  # the attacker sits in the lower one
        self._write_ini(
            "master",
            "master",
            {
                "api-address": local["api"],
                "controller-address": local["controller"],
                "enrolment-address": local["enrolment"],
                "listener-address": local["listener"],
                "public-address": local["enrolment"],
                **self._master_keys,
            },
        )
        self._write_ini(
            "worker",
            "agent",
            {
                "agent-address": local["agent"],
                "docker-host": self._docker_host,
                "interface": self.lan.parent,
                "subnet": str(addresses),
                "ip-range": str(upper_half),
            },
            {"updater": {"updater-address": local["updater"]}},
        )

    def _write_ini(
        self, side: str, section: str, keys: Mapping[str, Any], more: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        folder = self.folder / side
        sections: dict[str, Mapping[str, Any]] = {
            "decnet": {f"{name}-directory": folder / name for name in ("data", "log", "run")},
            section: keys,
            **(more or {}),
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "decnet.ini").write_text(
            "\n".join(
                f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
                for name, values in sections.items()
            )
        )
