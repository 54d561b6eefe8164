"""Worker hosts of the lab: network namespaces, each with a LAN, an attacker on it and an engine of its own.

    root namespace                     namespace dswm<n>w<k>                         namespace dlab<m>
    ┌────────────────────────┐         ┌──────────────────────────────────────┐      ┌──────────────┐
    │ the master             │         │ agent, logship, tap, updater, engine │      │ the attacker │
    │ dswm<n>  10.78.<n>.1/24├─────────┤ mgmt0              ens18, enp3s0, …  ├──────┤ eth0         │
    └────────────────────────┘ (bridge)│ 10.78.<n>.<k+10>   10.77.<m>.10/24   │      │ 10.77.<m>.50 │
                                       └──────────────────────────────────────┘      └──────────────┘

The number n is a slot (see `slots`): runs side by side get different ones, and what a killed run left is removed by the
next. Workers do not reach one another's LANs, and no real interface has a part in any of it.

Programs are run there by `ip netns exec`, which also shows them their namespace's own /sys/class/net.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from tests.lab import slots
from tests.lab.engine import LabEngine
from tests.lab.image import ensure_images
from tests.lab.lan import Lan, ip
from tests.lab.piece import Piece
from tests.lab.slots import MissingPart, Slot

_SLOTS = range(1, 255)
_OWN_HOST = 10  # of a worker on its LAN
_ROUTER_HOST = 1  # there is none; the default route says where the LAN is
_IP_SECS = 20


class Backbone(Piece):
    """The network between the master and its workers: a bridge that ends on this machine."""

    def __init__(self) -> None:
        self._slot: Slot | None = None

    @property
    def name(self) -> str:
        """The bridge's name; those of the workers' namespaces begin with it."""
        assert self._slot is not None
        return f"dswm{self._slot.number}"

    def host(self, number: int) -> IPv4Address:
        """Return an address of it; 1 is the master's."""
        assert self._slot is not None
        return IPv4Address(f"10.78.{self._slot.number}.{number}")

    def start(self) -> None:
        """Make it, after removing those whose owners are dead.

        Raises:
            MissingPart: not root, no iproute2, or no bridges in this kernel.
        """
        slots.require_root("worker hosts")
        slots.require_program("ip", "iproute2")
        _sweep()
        self._slot = next(slots.free(_folder(), _SLOTS), None)
        if self._slot is None:
            raise MissingPart("no free subnet is left in 10.78.0.0/16", "End other runs")
        ip("link", "add", self.name, "type", "bridge")
        ip("address", "add", f"{self.host(1)}/24", "dev", self.name)
        ip("link", "set", self.name, "up")

    def stop(self) -> None:
        """Remove it; twice is harmless."""
        slot, self._slot = self._slot, None
        if slot is not None:
            _remove(f"dswm{slot.number}")
            slot.release()


@dataclass(frozen=True)
class WorkerHost:
    """One worker host, up.

    Attributes:
        name: of the worker.
        netns: name of its namespace.
        address: where the master reaches it.
        lan: where its deckies live, and an attacker.
        engine: its own.
    """

    name: str
    netns: str
    address: IPv4Address
    lan: Lan
    engine: LabEngine

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` on this host."""
        return [slots.require_program("ip", "iproute2"), "netns", "exec", self.netns, *argv]


@contextlib.contextmanager
def worker_hosts(backbone: Backbone, interfaces: Sequence[str]) -> Iterator[list[WorkerHost]]:
    """Bring up w1, w2, … whose LANs hang on interfaces of these names, the decky images ready in their engines.

    Enter it in the main thread: engines are tied to the thread that starts them.

    Raises:
        MissingPart: a part is missing.
    """
    with contextlib.ExitStack() as stack:
        hosts = []
        for number, interface in enumerate(interfaces, start=1):
            netns, address = f"{backbone.name}w{number}", backbone.host(number + _OWN_HOST)
            ip("netns", "add", netns)
            stack.callback(_remove_host, netns)
            _connect(backbone, netns, address)
            lan = stack.enter_context(Lan(worker_host=_OWN_HOST, netns=netns, interface=interface))
            ip("-n", netns, "route", "add", "default", "via", str(lan.host(_ROUTER_HOST)), "dev", interface)
            engine = stack.enter_context(LabEngine(netns=Path("/run/netns") / netns))
            ensure_images(engine)
            hosts.append(WorkerHost(f"w{number}", netns, address, lan, engine))
        yield hosts


def _connect(backbone: Backbone, netns: str, address: IPv4Address) -> None:
    ip("link", "add", netns, "type", "veth", "peer", "name", "mgmt0", "netns", netns)
    ip("link", "set", netns, "master", backbone.name, "up")
    ip("-n", netns, "link", "set", "lo", "up")
    ip("-n", netns, "address", "add", f"{address}/24", "dev", "mgmt0")
    ip("-n", netns, "link", "set", "mgmt0", "up")


def _folder() -> Path:
    return slots.machine_folder() / "backbones"


def _sweep() -> None:
    """Remove all whose owners are dead; a killed run may have left any part of it."""
    left = {path.name for folder in ("/run/netns", "/sys/class/net") for path in Path(folder).glob("dswm*")}
    for number in {int(found[1]) for name in left if (found := re.fullmatch(r"dswm(\d+)(?:w\d+)?", name))}:
        if (slot := slots.claim(_folder(), number)) is not None:
            _remove(f"dswm{number}")
            slot.release()


def _remove(name: str) -> None:
    names = {path.name for folder in ("/run/netns", "/sys/class/net") for path in Path(folder).glob(f"{name}w*")}
    for host in sorted(names):
        _remove_host(host)
    _delete("link", name)


def _remove_host(netns: str) -> None:
    # The link first: a namespace's end takes it along too, but some time after its name is free again.
    _delete("link", netns)
    _delete("netns", netns)


def _delete(kind: str, name: str) -> None:
    subprocess.run(["ip", kind, "delete", name], capture_output=True, timeout=_IP_SECS, check=False)
