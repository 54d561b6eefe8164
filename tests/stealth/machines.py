"""The machines that are looked at: two deckies, and a plain container of the same Debian beside them as the control.

The control is what somebody gets who installs Debian's sshd and telnetd in a container and stops there. What it shows
of a tell says whether a decky is better than that, and whether a probe can see anything at all. It has a segment of its
own: what contains the deckies keeps a stranger beside them from speaking.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from docker.models.containers import Container
from docker.types import IPAMConfig, IPAMPool

from decnet_core.fleet import Account, DeckySpec, Shard
from tests.agent.worker import Worker
from tests.lab import slots, telnet
from tests.lab.engine import LabEngine
from tests.lab.image import ensure_plain_image
from tests.lab.lan import SSH_OPTIONS, Attacker, Lan
from tests.stealth.probes import SHELL_PROBES

_OUTSIDE = Path(__file__).with_name("outside.py")
_MARK = "=====8<===== "
_SECS = 240.0
_UP_SECS = 90.0

ROOT = Account(user="root", password="toor")
DEPLOY = Account(user="deploy", password="deploy123")
ACCOUNTS = (ROOT, DEPLOY)
SERVICES = ("ssh", "telnet")
_CONTROL_HOST = 97
_CONTROL = "ssh-keygen -qA; echo root:toor | chpasswd; mkdir -p /run/sshd; inetutils-inetd; exec /usr/sbin/sshd -D -e"


@dataclass
class Machine:
    """One machine on a segment.

    Attributes:
        seen: what each probe found, by the probe's name.
        described: says how it is when it does not answer.
    """

    name: str
    address: str
    mac: str
    attacker: Attacker
    described: Callable[[], str]
    seen: dict[str, str] = field(default_factory=dict)

    def ssh(self, user: str, password: str, command: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Log in once and run a command that reads `text`."""
        return self.attacker.ssh(self.address, user, password, command, input=text, timeout_secs=_SECS)

    def look(self) -> None:
        """Wait until it is up, and let all probes see it, several at a time.

        Raises:
            AssertionError: it did not come up, or did not let itself be looked at.
        """
        self.seen |= {"address": self.address, "mac": self.mac}
        for port in (22, 23):
            self._wait_for(port)
        # at most six connections that are not logged in: from the tenth on sshd turns some away
        with ThreadPoolExecutor() as probes:
            for probe in [probes.submit(probe) for probe in (self._inside, self._outside, self._known, self._unknown)]:
                probe.result()
        known = self.seen["known-user-codes"].split()
        self.seen["guesses"] = f"{known.count('0')} of {len(known)} let in"

    def _wait_for(self, port: int) -> None:
        deadline = time.monotonic() + _UP_SECS
        while not self.attacker.reaches(self.address, port):
            neighbours = self.attacker.run(["ip", "neighbour"]).stdout.decode()
            said = f"port {port} of {self.name} ({self.address}) is closed\n{neighbours}"
            assert time.monotonic() < deadline, said + self.described()

    def _inside(self) -> None:
        """Run the shell probes in one session of root's, and keep what each wrote, both streams."""
        probes = {name: script.replace("STRANGER", str(self.attacker.address)) for name, script in SHELL_PROBES.items()}
        parts = [f"echo; echo '{_MARK}{name}'; (\n{script}\n) 2>&1 </dev/null" for name, script in probes.items()]
        done = self.ssh("root", ROOT.password, "bash -s", "\n".join(parts).encode() + b"\n")
        for part in done.stdout.decode(errors="replace").split(f"\n{_MARK}")[1:]:
            name, _, text = part.partition("\n")
            self.seen[name] = text.strip()
        missing = probes.keys() - self.seen.keys()
        assert not missing, f"{self.name} did not answer {sorted(missing)}: {done.stderr[-300:]!r}"
        # the lab's engine stores its layers under a path of its own, any other under Docker's
        self.seen["mounts"] = self.seen["mounts"].replace(str(slots.cache_folder()), "/var/lib/docker")

    def _outside(self) -> None:
        json.loads(self._run("wire", [sys.executable, str(_OUTSIDE), self.address]))
        self._run("neighbour", ["ip", "neighbour", "show", self.address])
        self._run("scan", ["nmap", "-n", "-Pn", "-sS", "-sV", "--reason", "-p22", self.address])
        refused = self._run("refused", ["ssh", *SSH_OPTIONS, "-oBatchMode=yes", f"nobody-here@{self.address}"])
        self.seen["methods"] = "".join(re.findall(r"Permission denied \(([a-z,-]+)\)", refused))
        guess = [("root", "any-password-at-all")]
        done = telnet.log_in(self.attacker, self.address, guess, [(telnet.LOGIN, "root")], leave=True)
        self.seen["telnet-guess"] = done.stdout.decode(errors="replace")

    def _known(self) -> None:
        self._guess("known-user", "root")

    def _unknown(self) -> None:
        self._guess("unknown-user", "nobody-here")

    def _guess(self, name: str, user: str) -> None:
        """Try passwords that are nobody's, and keep how each ended, and after how long it was refused."""
        secs, codes = [], []
        for word in ("any-password-at-all", "root", "x" * 40):
            began = time.monotonic()
            codes.append(self.ssh(user, word, "true").returncode)
            secs.append(f"{time.monotonic() - began:.1f}")
        self.seen |= {f"{name}-secs": " ".join(secs), f"{name}-codes": " ".join(map(str, codes))}

    def _run(self, name: str, argv: Sequence[str]) -> str:
        """Run a program of the attacker's, and keep what it wrote."""
        done = self.attacker.run(argv, timeout_secs=_SECS)
        self.seen[name] = (done.stdout + done.stderr).decode(errors="replace").strip()
        return self.seen[name]


@contextmanager
def looked_at(folder: Path, engine: LabEngine, lan: Lan) -> Iterator[tuple[Machine, Machine, Machine]]:
    """Give two deckies, contained and watched, and the control, after all probes have seen them."""
    engine.sweep()
    settings = {"interface": lan.parent, "subnet": lan.subnet, "ip-range": f"{lan.host(128)}/25"}
    named = (("files-03", 20_231_011), ("db-2", 4_711))
    specs = [DeckySpec(name=name, services=SERVICES, accounts=ACCOUNTS, seed=seed) for name, seed in named]
    with Worker(folder, docker_host=engine.docker_host, lan=settings, tap=True) as worker, Lan() as elsewhere:
        try:
            control = _plain_container(engine, elsewhere)
            report = worker.deploy(Shard(generation=1, deckies=tuple(specs)))
            assert [decky["phase"] for decky in report["deckies"]] == ["running", "running"], report
            deckies = [
                Machine(decky["name"], decky["ip"], decky["mac"], lan.attacker, worker.daemon.log_text)
                for decky in report["deckies"]
            ]
            machines = (deckies[0], deckies[1], control)
            with ThreadPoolExecutor() as looking:
                for look in [looking.submit(machine.look) for machine in machines]:
                    look.result()
            yield machines
        finally:
            engine.sweep()


def _plain_container(engine: LabEngine, lan: Lan) -> Machine:
    image, address, name = ensure_plain_image(engine), str(lan.host(_CONTROL_HOST)), "plain"
    client = engine.client()
    pool = IPAMPool(subnet=str(lan.subnet))
    client.networks.create(name, driver="macvlan", ipam=IPAMConfig(pool_configs=[pool]), options={"parent": lan.parent})
    endpoint = client.api.create_endpoint_config(ipv4_address=address)
    made = client.api.create_container(
        image,
        ["/bin/bash", "-c", _CONTROL],
        host_config=client.api.create_host_config(network_mode=name),
        networking_config={"EndpointsConfig": {name: endpoint}},
    )
    container = client.containers.get(made["Id"])
    container.start()
    container.reload()
    mac = container.attrs["NetworkSettings"]["Networks"][name]["MacAddress"]
    return Machine("control", address, mac, lan.attacker, lambda: _described(container))


def _described(container: Container) -> str:
    container.reload()
    running = container.top()["Processes"] if container.status == "running" else ()
    return f"{container.status}\n{container.logs().decode(errors='replace')}\n{running}"
