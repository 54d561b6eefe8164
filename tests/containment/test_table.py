"""Rules in a real kernel, in a network namespace of their own: whole, watched, and hard to get rid of."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.root]

SETUP = """
import json, select, socket, subprocess
from decnet_agent.containment.pairs import Pair, Passage, Policy
from decnet_agent.containment.ruleset import make_ruleset
from decnet_agent.containment.table import Changes, Table, forsaken, netfilter

def sh(*argv):
    return subprocess.run(argv, capture_output=True, text=True)

sh("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb")
pairs = tuple(
    Pair(decky=f"d{n}", mac=f"52:54:00:00:{n >> 8:02x}:{n & 255:02x}", ip=f"10.0.{n >> 8}.{n & 255}", udp_ports=(161,))
    for n in range(1, 1501)
)
policy = Policy(pairs=pairs, passages=(Passage.parse("udp:10.0.0.0/8:53"),))
rules = make_ruleset("va", ["02:00:00:00:00:01"], policy, socket.if_nametoindex("vb"), "vb")
said = {}
kernel, changes = netfilter(), Changes()
def heard():
    found = bool(select.select([changes], [], [], 5)[0])
    changes.drain()
    return found
"""

OWNED = """
table = Table(kernel)
table.load(rules)
said["owned"], said["intact"] = table.owned, table.intact()
listed = json.loads(sh("nft", "-j", "list", "table", "netdev", "decnet-va").stdout)["nftables"]
said["sets"] = {item["set"]["name"]: len(item["set"].get("elem", [])) for item in listed if "set" in item}
said["hooks"] = sorted(item["chain"]["hook"] for item in listed if "hook" in item.get("chain", {}))
said["flush"] = [sh("nft", "flush", "ruleset").returncode, table.intact()]
said["delete"] = [sh("nft", "delete", "table", "netdev", "decnet-va").returncode != 0, table.intact()]
sh("nft", "add", "table", "inet", "others")
said["others"] = table.intact()
kernel.close()
said["outlives"] = "decnet-va" in sh("nft", "list", "tables").stdout
second = netfilter()
again = Table(second)
again.load(rules)
said["taken over"] = [again.owned, again.intact()]
said["kept"] = forsaken(second, frozenset({"decnet-va"}))
again.remove()
again.remove()
said["removed"] = "decnet-va" not in sh("nft", "list", "tables").stdout
print(json.dumps(said))
"""

UNOWNED = """
table = Table(kernel, own=False)
table.load(rules)
changes.drain()
said["owned"], said["intact"] = table.owned, table.intact()
for name, argv in {
    "flush": ("flush", "ruleset"),
    "element": ("delete", "element", "netdev", "decnet-va", "deckies", "{ 52:54:00:00:00:01 }"),
    "rule": ("add", "rule", "netdev", "decnet-va", "decky", "accept"),
    "first": ("insert", "rule", "netdev", "decnet-va", "decky", "accept"),
    "chain": ("flush", "chain", "netdev", "decnet-va", "egress"),
}.items():
    done = sh("nft", *argv)
    said[name] = [done.returncode, heard(), table.intact()]
    table.load(rules)
    changes.drain()
    said[name].append(table.intact())
kernel.close()
second = netfilter()
said["forsaken"] = [forsaken(second, frozenset()), sh("nft", "list", "tables").stdout]
print(json.dumps(said))
"""


def run(program: str) -> dict[str, object]:
    argv = ["unshare", "--net", sys.executable, "-c", SETUP + program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    return said


def test_a_table_that_is_ours_alone():
    """A kernel before 6.9 cannot let a table have an owner who may go: there it is what the next test is about."""
    said = run(OWNED)
    owned = said["owned"]
    assert said["intact"]
    assert said["sets"] == {
        "deckies": 1500, "pairs": 1500, "services": 1500, "own": 1, "arp": 0, "udp": 0, "icmp": 0, "passages": 0
    }  # fmt: skip
    assert said["hooks"] == ["egress", "ingress", "ingress"]
    assert said["flush"] == [0, owned]
    assert said["delete"] == [owned, owned]
    if owned:
        assert said["others"]
        assert said["outlives"]
    assert said["taken over"] == [owned, True]
    assert said["kept"] == []
    assert said["removed"]


def test_a_table_that_others_can_change_is_watched():
    said = run(UNOWNED)
    assert (said["owned"], said["intact"]) == (False, True)
    for name in ("flush", "element", "rule", "first", "chain"):
        assert said[name] == [0, True, False, True], name
    assert said["forsaken"] == [["decnet-va"], ""]
