from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from decnet_master.cli import main
from tests.lab.processes import Daemon, free_port
from tests.swarm.master import Template

RUN_SECS = 60


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Cli:
    """`decnet-master` as a person runs it, with a configuration file of this test alone."""

    folder: Path
    ports: dict[str, int]
    capsys: pytest.CaptureFixture[str]

    @property
    def config(self) -> Path:
        return self.folder / "decnet.ini"

    @property
    def environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("DECNET_")}
        return {**ours, "DECNET_CONFIG": str(self.config)}

    def configure(self, **more: object) -> None:
        lines = ["[decnet]", f"data-directory = {self.folder / 'data'}", "[master]"]
        lines += [f"{name}-address = 127.0.0.1:{port}" for name, port in self.ports.items()]
        lines += [f"{name.replace('_', '-')} = {value}" for name, value in more.items()]
        self.config.write_text("\n".join(lines) + "\n")

    def __call__(self, *arguments: str) -> Done:
        """Run a verb in this process: for those that end by themselves and set up no log."""
        self.capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["decnet-master", *arguments])
            patch.setattr(sys, "stdin", io.StringIO())
            patch.setenv("DECNET_CONFIG", str(self.config))
            with pytest.raises(SystemExit) as ended:
                main()
        printed = self.capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    def process(self, *arguments: str) -> Done:
        """Run a verb in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "decnet_master", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=RUN_SECS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def daemon(self, *arguments: str, env: Mapping[str, str] | None = None) -> Daemon:
        argv = [sys.executable, "-m", "decnet_master", *arguments]
        surroundings = {"DECNET_CONFIG": str(self.config), **(env or {})}
        return Daemon(argv, log_path=self.folder / f"{arguments[0]}.log", env=surroundings)


@pytest.fixture
def bare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """A machine where nothing was initialised."""
    cli = Cli(tmp_path, {name: free_port() for name in ("api", "controller", "enrolment", "listener")}, capsys)
    cli.configure()
    return cli


@pytest.fixture
def cli(bare: Cli, template: Template) -> Cli:
    """A master."""
    template.copy(bare.folder)
    return bare


@pytest.fixture
def served(cli: Cli) -> Iterator[Cli]:
    """A master whose controller and API run, under `serve`."""
    with cli.daemon("serve", "--no-listener", "--no-ingester") as daemon:
        for name in ("controller", "enrolment", "api"):
            daemon.wait_for_port(cli.ports[name], timeout_secs=60)
        yield cli
