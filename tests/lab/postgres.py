"""A private PostgreSQL cluster for one test session.

initdb into a temporary folder, a server that listens on a Unix socket in it and on no port, durability switched off
unless it is asked for, everything removed at the end. PostgreSQL refuses to run as root: under root it runs as the user
postgres, who owns the folder, and the kernel ends it when the thread that started it dies.

Tests that need an empty database ask for one of their own: `create_database` copies the pristine template in a tenth
of a second.

The folder is a slot's (see `slots`): a run that was killed leaves it, and the slot's next owner clears it.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests.lab import leftovers, slots
from tests.lab.piece import Piece
from tests.lab.slots import MissingPart, Slot

_START_SECS = 30.0  # measured under one second
_STOP_SECS = 10.0
_INITDB_SECS = 60.0
_USER = "postgres"
_SLOTS = range(32)


class PostgresCluster(Piece):
    """A running cluster: `with PostgresCluster() as cluster: create_async_engine(cluster.create_database())`.

    Args:
        durable: whether what is committed survives `kill`; costs a sync for each commit.
        places: the slots that it may take, the first free one.
    """

    def __init__(self, *, durable: bool = False, places: range = _SLOTS) -> None:
        self._durable = durable
        self._places = places
        self._folder: Path | None = None
        self._slot: Slot | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def socket_folder(self) -> Path:
        """The folder of the Unix socket."""
        assert self._folder is not None
        return self._folder

    @property
    def is_up(self) -> bool:
        """Whether the server's process lives; it may still be recovering."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Kill the server with SIGKILL, its first process alone, and reap it; the others notice and end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def start_again(self) -> None:
        """Start a killed server and do not wait for its recovery.

        It ends at once while processes of the killed one still hold its memory: look at `is_up`, and call again.
        """
        assert not self.is_up, "it still runs"
        self._spawn(_binary("postgres"), self.socket_folder / "data")

    def url(self, database: str = _USER) -> str:
        """Return the SQLAlchemy URL of a database, for asyncpg."""
        return f"postgresql+asyncpg://{_USER}@/{database}?host={self.socket_folder}"

    def create_database(self) -> str:
        """Create an empty database with a name of its own and return its URL."""
        name = f"lab_{secrets.token_hex(6)}"
        self._run([_binary("psql"), "-h", str(self.socket_folder), "-U", _USER, "-qXc", f'CREATE DATABASE "{name}"'])
        return self.url(name)

    def start(self) -> None:
        """Make the cluster and start its server.

        Raises:
            MissingPart: PostgreSQL is not installed, or it does not come up.
        """
        initdb, server = _binary("initdb"), _binary("postgres")
        temporary = Path(tempfile.gettempdir())
        locks = temporary / f"dlab-pg-locks-{os.geteuid()}"  # not in the run folder: this part needs no root
        self._slot = next(slots.free(locks, self._places), None)
        if self._slot is None:
            raise MissingPart(f"all {len(self._places)} clusters of the lab are in use", "End the other runs")
        self._folder = temporary / f"dlab-pg-{os.geteuid()}-{self._slot.number}"
        leftovers.end_all(f"{self._folder}/data", number=signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            owner = pwd.getpwnam(_USER)
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        data = self._folder / "data"
        how = ["-U", _USER, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        self._run([initdb, "-D", str(data), *how])
        self._spawn(server, data)
        self._wait_until_it_answers()

    def stop(self) -> None:
        """Stop the server by its pid, reap it and remove everything; twice is harmless."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)  # "fast shutdown": it does not wait for clients
            try:
                process.wait(_STOP_SECS)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)  # SIGKILL would leave its shared memory and children
                process.wait()
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()

    def _spawn(self, server: str, data: Path) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_folder),
            "unix_socket_permissions": "0700",
            "max_connections": "100",
        }
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        argv = [*_as_postgres(), server, "-D", str(data)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        with (self.socket_folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        ready = [_binary("pg_isready"), "-q", "-h", str(self.socket_folder)]
        deadline = time.monotonic() + _START_SECS
        while subprocess.run(ready, check=False, timeout=_START_SECS).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self.socket_folder / "server.log").read_text(errors="replace")
                raise MissingPart(f"PostgreSQL does not come up: {log[-600:]}", "Read its log above")
            time.sleep(0.05)

    def _run(self, argv: list[str]) -> None:
        done = subprocess.run(
            [*_as_postgres(), *argv], capture_output=True, text=True, check=False, timeout=_INITDB_SECS, cwd="/"
        )
        if done.returncode != 0:
            raise MissingPart(f"{Path(argv[0]).name} failed: {done.stderr.strip()[-600:]}", "Read the message above")


def _as_postgres() -> list[str]:
    """Return the prefix that runs a command as PostgreSQL's user, tied to our life."""
    prefix = [slots.require_program("setpriv", "util-linux"), "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        prefix += [f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"]
    return [*prefix, "--"]


def _binary(name: str) -> str:
    """Return the path of a program of the newest PostgreSQL that is installed; Debian keeps them off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    if versions:
        return str(versions[-1])
    return slots.require_program(name, "postgresql")
