"""A second worker's port on a segment of the lab: what two workers on one LAN need.

    root namespace               namespace dlab<n>
    dlab<n>  ────────────────────┤ eth0 ┐
    dlab<n>b ────────────────────┤ eth1 ┴ bridge lan0, which takes over the attacker's address

Macvlan children of one parent reach each other, but not their parent; those of two parents meet as two hosts do. It is
removed with the segment: its far end lies in the segment's namespace.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.lab.lan import Lan

_IP_SECS = 20


def add_second_port(lan: Lan) -> str:
    """Add the port to a segment that nobody else uses; return the second parent interface."""
    name, mine = f"{lan.parent}b", f"{lan.attacker.address}/{lan.subnet.prefixlen}"
    inside: Sequence[Sequence[str]] = (
        ("link", "add", "lan0", "type", "bridge"),
        ("address", "delete", mine, "dev", "eth0"),
        ("address", "add", mine, "dev", "lan0"),
        ("link", "set", "eth0", "master", "lan0"),
        ("link", "set", "eth1", "master", "lan0"),
        ("link", "set", "eth1", "up"),
        ("link", "set", "lan0", "up"),
    )
    _ip("link", "add", name, "type", "veth", "peer", "name", "eth1", "netns", lan.attacker.netns.name)
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")  # as of the first
    for arguments in inside:
        _ip("-n", lan.attacker.netns.name, *arguments)
    _ip("link", "set", name, "up")
    return name


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=_IP_SECS, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
