"""A real decky on a LAN, a tap that watches it and a collector that hears of it: what the tap's lab tests share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from docker.models.containers import Container
from docker.types import IPAMConfig, IPAMPool

from decnet_agent.evidence.sensors import serve_evidence
from decnet_core.events import Event, EventType, check
from tests.lab.engine import LabEngine
from tests.lab.lan import Lan
from tests.lab.processes import Daemon

PASSWORD = "s3cret"
CAPABILITIES = ["CHOWN", "SETUID", "SETGID", "SYS_CHROOT", "DAC_OVERRIDE", "FOWNER", "KILL"]
CAPABILITIES += ["NET_BIND_SERVICE", "AUDIT_WRITE"]
SET_UP = (
    "ssh-keygen -qA && (id bob 2>/dev/null || useradd -m -s /bin/bash bob) && echo bob:s3cret | chpasswd"
    " && echo root:toor | chpasswd && service ssh restart"
)
PROGRAM = """
import asyncio, sys
from pathlib import Path
from decnet_agent.tap.app import serve
from decnet_core import daemon, logs
daemon.die_with_parent()
logs.configure("tap", level="debug")
asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
"""
TAP = (sys.executable, "-c", PROGRAM)
"""A tap that nobody supervises."""


class Collector:
    """The collector's end of the channel in a thread of its own; durable means in the list."""

    def __init__(self, path: Path) -> None:
        self.events: list[Event] = []
        self._path = path
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(10)

    def stop(self) -> None:
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)

    def _run(self) -> None:
        async def append(events: list[Event]) -> None:
            self.events.extend(events)

        def last_cursor(source: str) -> str | None:
            return next((event.cursor for event in reversed(self.events) if event.source == source), None)

        async def serve() -> None:
            self._task = asyncio.current_task()
            await serve_evidence(self._path, last_cursor, append, ready=self._up.set)

        try:
            self._loop.run_until_complete(serve())
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()


class Site:
    """A decky, the tap that watches it and the collector that hears of it.

    Args:
        folder: for everything.
        container: the decky, whose address is the LAN's host of this `number`.
        argv: what runs the tap; the run and the data directory are added.
    """

    def __init__(self, folder: Path, container: Container, lan: Lan, number: int, argv: Sequence[str]) -> None:
        self.run, self.data = folder / "run", folder / "data"
        self.run.mkdir()
        self.data.mkdir()
        self.container, self.lan = container, lan
        self.address = str(lan.host(number))
        self.collector = Collector(self.run / "events.sock")
        self.tap = Daemon([*argv, str(self.run), str(self.data)], log_path=folder / "tap.log")

    def list_decky(self) -> None:
        self.container.reload()
        state = self.container.attrs["State"]
        rows = [{"name": "web-01", "container_id": self.container.id, "pid1": state["Pid"]}] if state["Running"] else []
        fresh = self.run / "deckies.new"
        fresh.write_text(json.dumps(rows))
        fresh.replace(self.run / "deckies.json")

    def set_up(self) -> None:
        code, output = self.container.exec_run(["sh", "-c", SET_UP])
        assert code == 0, output

    def start_tap(self) -> None:
        self.tap.start()
        self.tap.wait_for_line("tap.decky_watched")

    def ssh(
        self, command: str | None, user: str = "bob", password: str = PASSWORD, **more
    ) -> subprocess.CompletedProcess[bytes]:
        return self.lan.attacker.ssh(self.address, user, password, command, **more)

    def shell(self) -> subprocess.Popen[bytes]:
        """Log in to a terminal."""
        options = ("-tt", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null")
        argv = ("sshpass", "-e", "ssh", *options, f"bob@{self.address}")
        return self.lan.attacker.popen(argv, env={"SSHPASS": PASSWORD})

    def wait(self, matches: Callable[[Event], bool]) -> Event:
        """Wait until an event matches."""
        found: list[Event] = []

        def reached() -> bool:
            found.extend(event for event in list(self.collector.events) if matches(event))
            return bool(found)

        self.tap.wait_until(reached, "matching event", timeout_secs=60)
        check(found[0])
        return found[0]

    def command(self, command: str, **fields: str) -> Event:
        return self.wait(
            lambda event: (
                event.event_type == EventType.COMMAND_RUN
                and event.fields["command"] == command
                and all(event.fields.get(name) == value for name, value in fields.items())
            )
        )

    def file(self, path: str) -> Event:
        return self.wait(lambda event: event.event_type == EventType.FILE_CAPTURED and event.fields["path"] == path)


@contextlib.contextmanager
def tapped(
    lab_engine: LabEngine, image: str, lan: Lan, folder: Path, *, number: int, argv: Sequence[str] = TAP
) -> Iterator[Site]:
    """Bring all of it up, the LAN's host of this `number` being the decky, and take it down."""
    client = lab_engine.client()
    pool = IPAMPool(subnet=str(lan.subnet))
    network = client.networks.create(
        f"tapped{number}", driver="macvlan", ipam=IPAMConfig(pool_configs=[pool]), options={"parent": lan.parent}
    )
    endpoint = client.api.create_endpoint_config(ipv4_address=str(lan.host(number)))
    made = client.api.create_container(
        image,
        hostname="web01",
        tty=True,
        host_config=client.api.create_host_config(
            cap_drop=["ALL"],
            cap_add=CAPABILITIES,
            network_mode=f"tapped{number}",
            pids_limit=256,
            mem_limit="256m",
            tmpfs={"/run": "rw,mode=755"},
        ),
        networking_config=client.api.create_networking_config({f"tapped{number}": endpoint}),
    )
    container = client.containers.get(made["Id"])
    container.start()
    here = Site(folder, container, lan, number, argv)
    try:
        here.set_up()
        here.collector.start()
        here.list_decky()
        here.start_tap()
        yield here
    finally:
        here.tap.stop()
        here.collector.stop()
        container.remove(force=True)
        network.remove()
        client.close()
