"""A LAN with an attacker, and machines on macvlan beside one another: what containment works on, without an engine.

    dctn<pid>w: the worker           dctn<pid>a, dctn<pid>b            namespace of the LAN's attacker
    `decnet-agent containment`       eth0, macvlan on the parent       eth0: the victim, and who visits deckies

The worker is a namespace of its own, so that no rule of the machine that runs the tests is touched. Each machine has a
server on port 22 that greets as sshd does, and root in it has all capabilities.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self

from decnet_agent.containment.pairs import Pair
from tests.lab.lan import Lan, ip

ATTACKS = Path(__file__).with_name("attacks.py")
LEVEL_SECS = 60.0
_GREETER = """
import socket, sys
server = socket.create_server(("", 22), backlog=64)
print("up", flush=True)
while True:
    channel, _ = server.accept()
    channel.sendall(b"SSH-2.0-OpenSSH_9.2p1\\r\\n")
    channel.close()
"""
_LISTENER = """
import socket, sys
channel = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
channel.bind((sys.argv[1], 3))
print("up", flush=True)
while True:
    frame, about = channel.recvfrom(2048)
    if about[2] != socket.PACKET_OUTGOING:
        print(frame.hex(), flush=True)
"""


@dataclass(frozen=True)
class Machine:
    """A machine on the LAN."""

    name: str
    netns: str
    mac: str
    address: IPv4Address

    @property
    def pair(self) -> Pair:
        """It as a decky."""
        return Pair(decky=self.name, mac=self.mac, ip=self.address)

    def argv(self, *argv: str) -> list[str]:
        """Return the command line that runs a command in it."""
        return ["nsenter", f"--net=/run/netns/{self.netns}", "--", *argv]

    def attack(self, target: Machine, sibling: Machine) -> list[dict[str, Any]]:
        """Try everything on a target; return what came of each."""
        identities = (self.mac, str(self.address), str(target.address), target.mac, sibling.mac, str(sibling.address))
        done = subprocess.run(
            self.argv(sys.executable, "-S", str(ATTACKS), *identities),
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return [json.loads(line) for line in done.stdout.splitlines()]


@contextlib.contextmanager
def worker_lan() -> Iterator[tuple[str, Lan]]:
    """Make a worker's namespace with a LAN on it; return its name, and the LAN."""
    netns = f"dctn{os.getpid()}w"
    ip("netns", "add", netns)
    try:
        ip("-n", netns, "link", "set", "lo", "up")
        with Lan(netns=netns, interface="parent0") as lan:
            yield netns, lan
    finally:
        ip("netns", "delete", netns)


@contextlib.contextmanager
def machine(worker: str, lan: Lan, name: str, host: int) -> Iterator[Machine]:
    """Bring up a machine on the LAN's parent in a worker's namespace."""
    netns, mac = f"dctn{os.getpid()}{name}", f"52:54:00:00:10:{host:02x}"
    ip("netns", "add", netns)
    try:
        kind = ("address", mac, "netns", netns, "type", "macvlan", "mode", "bridge")
        ip("-n", worker, "link", "add", "eth0", "link", lan.parent, *kind)
        address = lan.host(host)
        subprocess.run(
            ["nsenter", f"--net=/run/netns/{netns}", "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"],
            check=True,
        )
        ip("-n", netns, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", netns, "link", "set", "eth0", "up")
        ip("-n", netns, "route", "add", "default", "via", str(lan.host(1)), "dev", "eth0")
        made = Machine(name, netns, mac, address)
        with running(made.argv(sys.executable, "-S", "-c", _GREETER)):
            yield made
    finally:
        ip("netns", "delete", netns)


@contextlib.contextmanager
def running(argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a program that says when it is up; end it at the end."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


class Capture:
    """Every frame that reaches a namespace, while the `with` block lasts."""

    def __init__(self, netns: Path, device: str = "eth0") -> None:
        self._argv = ["nsenter", f"--net={netns}", "--", sys.executable, "-S", "-c", _LISTENER, device]
        self._frames: list[bytes] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        process = self._stack.enter_context(running(self._argv))
        self._thread = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._thread.join()

    def from_mac(self, *macs: str) -> list[bytes]:
        """Return the frames that claim to be from these."""
        wanted = {bytes.fromhex(mac.replace(":", "")) for mac in macs}
        return [frame for frame in self._frames if frame[6:12] in wanted]

    def wait_for(self, reached: Callable[[bytes], bool]) -> None:
        """Wait until a frame has come: those sent before it, on the same way, have come as well."""
        wait_until(lambda: any(map(reached, list(self._frames))), "frame")

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._frames.append(bytes.fromhex(line))


def greets(lan: Lan, address: IPv4Address, within_secs: float = 10.0) -> bool:
    """Tell whether the LAN's attacker gets a banner from port 22 there."""
    script = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], 22), float(sys.argv[2]));"
        "sys.exit(s.recv(4) != b'SSH-')"
    )
    return lan.attacker.run([sys.executable, "-S", "-c", script, str(address), str(within_secs)]).returncode == 0


def wait_until(reached: Callable[[], bool], level: str) -> None:
    """Wait until a level is reached, for a minute at most."""
    deadline = time.monotonic() + LEVEL_SECS
    while not reached():
        assert time.monotonic() < deadline, f"no {level}"
        time.sleep(0.02)


def mac_of(netns: Path, device: str = "eth0") -> str:
    """Return the MAC of a namespace's device."""
    done = subprocess.run(
        ["nsenter", f"--net={netns}", "ip", "-json", "link", "show", device], capture_output=True, check=True
    )
    mac: str = json.loads(done.stdout)[0]["address"]
    return mac


def connected(path: Path) -> bool:
    """Tell whether somebody listens at a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
