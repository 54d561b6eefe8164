"""A network segment of the lab with an attacker on it.

    root namespace                         namespace dlab<n>
    ┌───────────────────────────┐          ┌──────────────────────┐
    │ dlab<n>  (veth, no address)├──────────┤ eth0  10.77.<n>.50/24 │  the attacker
    └──┬────────────────────────┘          └──────────────────────┘
       └ macvlan children: the deckies, each with a MAC and an address of its own

`Lan.parent` is what a macvlan network takes as its parent. The segment ends at the attacker: no route, no bridge and
no real interface has a part in it. The third byte of the subnet is a slot (see `slots`): runs side by side get
different segments, a segment whose owner died is removed by the next run, and a subnet that the machine itself has a
route into is passed over.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import IO

from tests.lab import slots
from tests.lab.piece import Piece
from tests.lab.slots import MissingPart, Slot
from tests.lab.uncontain import uncontain

_SLOTS = range(1, 255)
_ATTACKER_HOST = 50
_IP_SECS = 20
_CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1).close()
except OSError:
    sys.exit(1)
"""
SSH_OPTIONS = (
    "-oStrictHostKeyChecking=no",
    "-oUserKnownHostsFile=/dev/null",
    "-oGlobalKnownHostsFile=/dev/null",
    "-oLogLevel=ERROR",
    "-oPreferredAuthentications=password",
    "-oPubkeyAuthentication=no",
    "-oNumberOfPasswordPrompts=1",
    "-oConnectTimeout=10",
)


class Attacker:
    """Somebody in a network namespace of his own."""

    def __init__(self, netns: Path, address: IPv4Address) -> None:
        self.netns = netns
        self.address = address

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` in the attacker's namespace.

        Raises:
            MissingPart: this machine has no such program; its exit code would read as a decky's answer.
        """
        if shutil.which(argv[0]) is None:
            raise MissingPart(
                f"{argv[0]} is not installed", "Run scripts/setup lab as root, which installs what the lab needs."
            )
        # `ip netns exec` would mount a sysfs of its own and hide /sys/fs/cgroup
        return [slots.require_program("nsenter", "util-linux"), f"--net={self.netns}", "--", *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | None = None,  # noqa: A002 - subprocess calls it so
        timeout_secs: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end; a failure is an answer here, not an error.

        Args:
            argv: the command.
            input: what it reads from its standard input; None is end of file at once.
            timeout_secs: it is killed after that.
            env: variables added to ours.

        Raises:
            subprocess.TimeoutExpired: it took longer.
        """
        return subprocess.run(
            self.argv(argv),
            input=b"" if input is None else input,
            capture_output=True,
            timeout=timeout_secs,
            check=False,
            env={**os.environ, **(env or {})},
        )

    def reaches(self, address: IPv4Address | str, port: int) -> bool:
        """Tell whether somebody accepts TCP connections there, within a second."""
        return self.run([sys.executable, "-c", _CONNECT, str(address), str(port)]).returncode == 0

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[bytes] = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command with pipes to it; the caller ends and reaps it."""
        return subprocess.Popen(
            self.argv(argv),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )

    def ssh(
        self,
        address: IPv4Address | str,
        user: str,
        password: str,
        command: str | None = None,
        *,
        input: bytes | None = None,  # noqa: A002 - subprocess calls it so
        tty: bool = False,
        timeout_secs: float = 60.0,
    ) -> subprocess.CompletedProcess[bytes]:
        """Log in once by password, run one command (None: a login shell that reads `input`), and leave.

        The exit code is the command's, or 255 when the password is refused or nobody answers. The password travels in
        the environment, never in argv.
        """
        argv = ["sshpass", "-e", "ssh", *SSH_OPTIONS, *(["-tt"] if tty else []), f"{user}@{address}"]
        argv += [command] if command is not None else []
        return self.run(argv, input=input, timeout_secs=timeout_secs, env={"SSHPASS": password})


class Lan(Piece):
    """The segment: `with Lan() as lan: lan.attacker.run(["ping", "-c1", str(lan.host(10))])`.

    Args:
        worker_host: give the parent interface this host number as its address, for a worker whose address lies in the
            deckies' own subnet; None leaves it without one.
        netns: name of the network namespace that the parent interface lives in, for a worker of its own; it is there
            already, and outlives the segment. None is ours.
        interface: what the parent interface is called there; needs a namespace of its own.
        places: the slots that it may take, the first free one.
    """

    def __init__(
        self,
        *,
        worker_host: int | None = None,
        netns: str | None = None,
        interface: str | None = None,
        places: range = _SLOTS,
    ) -> None:
        self._worker_host = worker_host
        self._netns = netns
        self._interface = interface
        self._places = places
        self._slot: Slot | None = None

    @property
    def parent(self) -> str:
        """The interface on the worker's side that a macvlan network hangs on."""
        return self._interface or self._name

    @property
    def subnet(self) -> IPv4Network:
        """The segment's addresses: a /24."""
        assert self._slot is not None
        return _subnet(self._slot.number)

    @property
    def attacker(self) -> Attacker:
        """The attacker on the segment."""
        return Attacker(Path("/run/netns") / self._name, self.host(_ATTACKER_HOST))

    def host(self, number: int) -> IPv4Address:
        """Return the address of host `number` (1..254) of the segment."""
        return self.subnet[number]

    def start(self) -> None:
        """Make the segment, after removing those whose owners are dead.

        Raises:
            MissingPart: not root, no iproute2, or no free subnet below 10.77.0.0/16.
        """
        slots.require_root("a network segment")
        slots.require_program("ip", "iproute2")
        sweep()
        taken = _routed_subnets()
        for slot in slots.free(_folder(), self._places):
            if not any(_subnet(slot.number).overlaps(other) for other in taken):
                self._slot = slot
                break
            slot.release()
        if self._slot is None:
            raise MissingPart(
                "no free subnet is left in 10.77.0.0/16", "End other runs, or free that range on this machine"
            )
        self._build()

    def stop(self) -> None:
        """Remove the segment and what hangs on it; twice is harmless."""
        slot, self._slot = self._slot, None
        if slot is not None:
            _remove(f"dlab{slot.number}")
            slot.release()

    @property
    def _name(self) -> str:
        """What the attacker's namespace is called, and the parent interface where it has no name of its own."""
        assert self._slot is not None
        return f"dlab{self._slot.number}"

    def _build(self) -> None:
        name, parent, attacker = self._name, self.parent, self.attacker
        ip("netns", "add", name)
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        # a parent that speaks by itself (router solicitations, multicast reports) would be seen on the segment
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        there: list[str] = []
        if self._netns is not None:
            ip("link", "set", name, "netns", self._netns, "name", parent)
            there = ["-n", self._netns]
        if self._worker_host is not None:
            ip(*there, "address", "add", f"{self.host(self._worker_host)}/{self.subnet.prefixlen}", "dev", parent)
        ip(*there, "link", "set", parent, "up")
        ip("-n", name, "address", "add", f"{attacker.address}/{self.subnet.prefixlen}", "dev", "eth0")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", "eth0", "up")


def sweep() -> None:
    """Remove every segment of the lab whose owner is dead."""
    names = {path.name for folder in ("/run/netns", "/sys/class/net") for path in Path(folder).glob("dlab*")}
    for name in sorted(names):
        number = name.removeprefix("dlab")
        if number.isdigit() and (slot := slots.claim(_folder(), int(number))) is not None:
            _remove(name)
            slot.release()


def _folder() -> Path:
    return slots.machine_folder() / "lans"


def _subnet(number: int) -> IPv4Network:
    return IPv4Network(f"10.77.{number}.0/24")


def _remove(name: str) -> None:
    for parent in (name, f"{name}b"):
        uncontain(parent)
    # either end's removal takes the other along; macvlan children of the parent go with it
    for argv in (["ip", "link", "delete", name], ["ip", "netns", "delete", name]):
        subprocess.run(argv, capture_output=True, timeout=_IP_SECS, check=False)


def _routed_subnets() -> list[IPv4Network]:
    routes = json.loads(ip("-json", "-4", "route", "show", "table", "all") or "[]")
    return [
        IPv4Network(str(route["dst"]), strict=False) for route in routes if route["dst"] not in {"default", "0.0.0.0/0"}
    ]


def ip(*arguments: str) -> str:
    """Run `ip` and return what it prints.

    Raises:
        MissingPart: it failed: no root, or a kernel without a part.
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=_IP_SECS, check=False)
    if done.returncode != 0:
        raise MissingPart(
            f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}",
            "The lab needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN, and a kernel with veth, macvlan and namespaces",
        )
    return done.stdout
