"""A master of the lab, and what running its own and its workers' programs takes; sites are built on it.

    folder/<side>/{data,log,run}  decnet.ini      one side for the master, one for each worker

Every program is its own process and everything goes through the programs' own commands (init, enroll, join, deploy), as
an operator would type them. The master listens on ports that were free a moment ago.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from decnet_core.errors import Unavailable
from tests.lab.piece import Piece
from tests.lab.processes import Daemon, free_port

_BIN = Path(sys.executable).parent
_COMMAND_SECS = 300.0  # a first deploy composes the image: apt inside a container, on a slow mirror


class Headquarters(Piece):
    """The master of a site.

    Args:
        folder: empty; takes all state and logs.
        progress: told what happens, a line each.
        address: where workers reach the master; its API and controller stay on the loopback.
        api_port: fixed port of the API; None takes a free one.
        master_keys: more keys of the master's configuration.
    """

    def __init__(
        self,
        folder: Path,
        *,
        progress: Callable[[str], None] = lambda _line: None,
        address: str = "127.0.0.1",
        api_port: int | None = None,
        master_keys: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.address = address
        self._progress = progress
        self._master_keys = dict(master_keys or {})
        self.ports = {name: free_port() for name in ("api", "controller", "enrolment", "listener")}
        if api_port is not None:
            self.ports["api"] = api_port
        self.admin_password = ""
        self.master = self.daemon("master", "decnet-master", "serve")

    @property
    def api_url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.ports['api']}"

    def start(self) -> None:
        """Bring the site up."""
        self.start_master()

    def stop(self) -> None:
        """End every process; the engine's owner removes the deckies."""
        self.master.stop()

    def start_master(self) -> None:
        """Initialise and start the master."""
        self._configure_master()
        self._progress("master: init and serve")
        self.admin_password = json.loads(self.master_cli("init", "--json"))["password"]
        self.master.start()
        self.wait_for_master()

    def wait_for_master(self) -> None:
        """Wait until every part of the master answers."""
        self.master.wait_for_http(f"{self.api_url}/readyz", timeout_secs=60)
        self.master.wait_for_port(self.ports["controller"])
        for name in ("enrolment", "listener"):
            self.master.wait_for_port(self.ports[name], host=self.address)

    def join(self, side: str, name: str) -> None:
        """Enrol a worker by a token, as an operator would."""
        token = json.loads(self.master_cli("swarm", "enroll", name, "--json"))["token"]
        self.run(side, ["decnet-agent", "join", "-"], text=token)

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
            self.argv(side, *argv),
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

    def argv(self, side: str, program: str, *arguments: str) -> list[str]:  # noqa: ARG002 - a site may have sides elsewhere
        """Return the command line of a program on a side."""
        return [str(_BIN / program), *arguments]

    def daemon(self, side: str, program: str, verb: str) -> Daemon:
        """Return a daemon of a side, not started."""
        return Daemon(
            self.argv(side, program, verb),
            log_path=self.folder / side / f"{program}.log",
            env={"DECNET_CONFIG": str(self.folder / side / "decnet.ini")},
        )

    def _configure_master(self) -> None:
        local = {name: f"127.0.0.1:{self.ports[name]}" for name in ("api", "controller")}
        reached = {name: f"{self.address}:{self.ports[name]}" for name in ("enrolment", "listener")}
        addresses = {f"{name}-address": address for name, address in (local | reached).items()}
        self.write_ini("master", {"master": {**addresses, "public-address": reached["enrolment"], **self._master_keys}})

    def write_ini(self, side: str, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Write a side's configuration, its directories below the site's."""
        folder = self.folder / side
        directories = {f"{name}-directory": folder / name for name in ("data", "log", "run")}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "decnet.ini").write_text(
            "\n".join(
                f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
                for name, values in {"decnet": directories, **sections}.items()
            )
        )
