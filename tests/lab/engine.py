"""A private Docker daemon for one run.

Why private: the lab creates and removes containers and networks by the dozen, and must never meet those of the
machine's own engine, nor its bridge, its firewall rules or its forwarding switch. So the daemon here makes no bridge,
writes no rule and turns no switch, and reads no /etc/docker/daemon.json.

Each run owns one slot (see `slots`), and with it `<cache>/engines/<slot>` (layers and images, kept, so that the next
run builds nothing) and `<run>/<slot>` (socket, pid, log). Runs side by side get different slots. A run that was
killed leaves a daemon behind: the kernel sends that SIGTERM when its parent thread dies, and the slot's next owner
stops it if it is still there (see `leftovers`), and removes every container, network and volume, for none of them can
have an owner.

`DECNET_LAB_DOCKER_HOST` names an engine to use instead; that one is neither swept nor stopped.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import docker
from docker.errors import APIError, DockerException, NotFound

from tests.lab import leftovers, slots
from tests.lab.piece import Piece
from tests.lab.slots import MissingPart, Slot

_SLOTS = range(16)
_START_SECS = 40.0  # measured 1-2 s; a machine under load takes its time
_STOP_SECS = 20.0  # dockerd itself waits up to 15 s for its containers
_API_SECS = 120  # one call: an import of a 200 MB tar on a slow disk


class LabEngine(Piece):
    """A running engine: `with LabEngine() as engine: engine.client().containers.list()`.

    Enter it in the main thread: the daemon is tied to the thread that starts it.

    Args:
        netns: path of a network namespace (/run/netns/NAME) that the engine lives in, for a worker of its own; None
        is ours.
        places: the slots that it may take, the first free one.
    """

    def __init__(self, *, netns: Path | None = None, places: range = _SLOTS) -> None:
        self._netns = netns
        self._places = places
        self._slot: Slot | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.docker_host = ""

    @property
    def pid(self) -> int | None:
        """The daemon's process id; None for an engine that is not ours."""
        return self._process.pid if self._process else None

    @property
    def log_path(self) -> Path:
        """Where the daemon writes its log."""
        return self._state / "dockerd.log"

    def start(self) -> None:
        """Bring the engine up, clean of whatever a killed run left.

        Raises:
            MissingPart: there is no dockerd, no root, or the daemon does not come up; the message holds its last words.
        """
        given = os.environ.get("DECNET_LAB_DOCKER_HOST")
        if given:
            self.docker_host = given
            self._check_given()
            return
        slots.require_root("a private Docker engine")
        dockerd = slots.require_program("dockerd", "docker.io")
        self._slot = next(slots.free(slots.run_folder() / "engines", self._places), None)
        if self._slot is None:
            raise MissingPart(f"all {len(self._places)} engines of the lab are in use", "End the other runs")
        self._state.mkdir(parents=True, exist_ok=True)
        leftovers.clear(self._state, self._data, self._name)
        self._spawn(dockerd)
        self._wait_until_it_answers()
        self.sweep()

    def stop(self) -> None:
        """Remove the containers, stop the daemon by its pid and reap it; twice is harmless."""
        process, self._process = self._process, None
        if process is not None:
            try:
                if process.poll() is None:
                    self.sweep()
            except (DockerException, OSError):
                pass  # it is going away in any case; the slot's next owner sweeps again
            finally:
                process.terminate()
                try:
                    process.wait(_STOP_SECS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()

    def restart(self, end_with: signal.Signals = signal.SIGTERM, *, patience_secs: float = _START_SECS) -> None:
        """End the daemon and start it again on what it left, as a package upgrade or a crash of it does.

        Args:
            end_with: how it ends.
            patience_secs: until it answers again; a killed engine first clears away what its containers left.

        Raises:
            MissingPart: the engine is not ours, or does not come up again.
        """
        if self._process is None:
            raise MissingPart("the engine at DECNET_LAB_DOCKER_HOST is not ours to restart", "Unset the variable")
        self._process.send_signal(end_with)
        self._process.wait(_STOP_SECS)
        # a killed daemon's containerd lives on, and would keep its lock from the next one
        leftovers.end_all(f"{self._state}/exec/containerd/containerd.toml", number=signal.SIGTERM)
        (self._state / "exec/containerd/containerd.pid").unlink(missing_ok=True)
        self._spawn(slots.require_program("dockerd", "docker.io"))
        self._wait_until_it_answers(patience_secs)

    def client(self) -> docker.DockerClient:
        """Return a new client of the engine; the caller closes it."""
        return docker.DockerClient(base_url=self.docker_host, timeout=_API_SECS)

    def sweep(self) -> None:
        """Remove every container, network and volume of an engine that is ours."""
        if os.environ.get("DECNET_LAB_DOCKER_HOST"):
            return
        client = self.client()
        try:
            for container in client.containers.list(all=True, ignore_removed=True):
                _unless_gone(lambda c=container: c.remove(force=True, v=True))
            for network in client.networks.list():
                if network.name not in {"bridge", "host", "none"}:
                    _unless_gone(network.remove)
            client.volumes.prune()
        finally:
            client.close()

    @property
    def place(self) -> int:
        """The number of the slot that it has."""
        assert self._slot is not None
        return self._slot.number

    @property
    def _name(self) -> str:
        """The engine's name within containerd."""
        return f"decnet-lab-{self.place}"

    @property
    def _state(self) -> Path:
        return slots.run_folder() / str(self.place)

    @property
    def _data(self) -> Path:
        return slots.cache_folder() / "engines" / str(self.place)

    def _check_given(self) -> None:
        try:
            self.client().close()  # it asks for the API's version
        except (DockerException, OSError) as error:
            raise MissingPart(
                f"no Docker engine answers at DECNET_LAB_DOCKER_HOST={self.docker_host}: {error}",
                "Start it, or unset the variable for an engine of the lab's own",
            ) from error

    def _spawn(self, dockerd: str) -> None:
        self._data.mkdir(parents=True, exist_ok=True)
        socket = self._state / "docker.sock"
        config = self._state / "daemon.json"
        config.write_text("{}\n")
        self.docker_host = f"unix://{socket}"
        argv = [slots.require_program("setpriv", "util-linux"), "--pdeathsig", "TERM"]
        if self._netns is not None:
            argv += [slots.require_program("nsenter", "util-linux"), f"--net={self._netns}"]
        argv += [
            dockerd,
            f"--config-file={config}",
            f"--data-root={self._data}",
            f"--exec-root={self._state / 'exec'}",
            f"--pidfile={self._state / 'dockerd.pid'}",
            f"--host={self.docker_host}",
            # a containerd that the machine runs already is shared by every dockerd: names keep them apart
            f"--containerd-namespace={self._name}",
            f"--containerd-plugins-namespace={self._name}-plugins",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
            "--userland-proxy=false",
        ]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _wait_until_it_answers(self, patience_secs: float = _START_SECS) -> None:
        deadline = time.monotonic() + patience_secs
        assert self._process is not None
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:  # the client leaves its own open where nobody listens yet
                    probe.connect(self.docker_host.removeprefix("unix://"))
                self.client().close()  # it asks for the API's version, so it takes a daemon that answers
            except (DockerException, OSError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise MissingPart(
                        f"dockerd does not come up; its log ends: {_tail(self.log_path)}", f"Read {self.log_path}"
                    ) from error
                time.sleep(0.1)
            else:
                return


def _unless_gone(remove: object) -> None:
    assert callable(remove)
    try:
        remove()
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != 409:  # a removal of the same thing is on its way
            raise


def _tail(path: Path, lines: int = 5) -> str:
    return " | ".join(path.read_text(errors="replace").splitlines()[-lines:])
