"""What an operator may write into a fleet file."""

from __future__ import annotations

import re

from decnet_core.identity import is_host_name
from decnet_master.fleet_file import FleetFileError, parse_fleet
from tests.fuzz.target import Target, hold

_FILE = b"""\
[[decky]]
name = "vault-01"
services = ["ssh"]
host = "w1"

[[group]]
prefix = "files"
count = 3
labels = { site = "hq" }
hosts = [
  "w2",
]
"""


def fleet(data: bytes) -> None:
    """Any file is a fleet with names that differ, or faults, each with a line that the file has."""
    try:
        groups = parse_fleet(data, "f")
    except FleetFileError as refused:
        for fault in refused.faults:
            found = re.match(r"f:(?:(\d+):)? ", fault)
            hold(fault.isprintable(), "a fault acts on a terminal")
            hold(found is not None, "a fault does not say where")
            line = int(found[1] or 1) if found else 0
            hold(1 <= line <= data.count(b"\n") + 1, "a fault has a line that the file has not")
        return
    names = [name for group in groups for name in group.names]
    hold(names and len(set(names)) == len(names), "a fleet has no deckies, or a name twice")
    hold(all(map(is_host_name, names)), "a name is none")


TARGETS = (
    Target(
        "fleet-file",
        fleet,
        (_FILE, _FILE.replace(b"\n", b"\r\n"), b"decky = [{ name = 'a' }]"),
        (
            b"[[decky]]\n",
            b"[[group]]\n",
            b"name = ",
            b"prefix = ",
            b"count = ",
            b"{",
            b"}",
            b"[",
            b"]",
            b'"""',
            b"\n",
            b"=",
        ),
        2,
    ),
)
