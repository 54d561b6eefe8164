"""Which LAN a worker makes out, from the kernel's tables as they are written."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from decnet_agent.deploying.detecting import Kernel, KnownLan, Route, Wishes, detect
from decnet_agent.deploying.lan import AddressRange
from decnet_agent.deploying.network_facts import network_facts, read_kernel
from decnet_agent.deploying.state import AgentState, StoredAssignment, StoredLan
from decnet_agent.settings import AgentSettings
from decnet_core.errors import ConfigError

NET = IPv4Network
DEFAULT = NET("0.0.0.0/0")
OFFICE, LAB, VPN = NET("192.168.7.0/24"), NET("10.20.0.0/16"), NET("10.8.0.0/24")
HOST = Kernel(
    interfaces={"docker0": True, "eth0": True, "eth1": True, "lo": False, "tun0": False},
    routes=(
        Route("tun0", DEFAULT, IPv4Address("10.8.0.1"), 50),
        Route("eth0", DEFAULT, OFFICE[1], 100),
        Route("eth1", DEFAULT, LAB[1], 200),
        Route("docker0", NET("172.17.0.0/16")),
        Route("eth0", OFFICE),
        Route("eth1", LAB),
        Route("tun0", VPN),
    ),
    own=frozenset({OFFICE[9], LAB[9]}),
    neighbours={"eth0": frozenset({OFFICE[44]})},
)


def lan(kernel: Kernel, wishes: Wishes = Wishes(), known: KnownLan | None = None) -> tuple[str, str, str | None]:  # noqa: B008
    facts = detect(kernel, wishes, known)
    return facts.interface, str(facts.subnet), None if facts.gateway is None else str(facts.gateway)


def without(kernel: Kernel, *interfaces: str) -> Kernel:
    """As if the interfaces had no addresses."""
    return replace(kernel, routes=tuple(route for route in kernel.routes if route.interface not in interfaces))


def test_the_default_route_tells_and_a_vpn_is_no_lan():
    assert lan(HOST) == ("eth0", "192.168.7.0/24", "192.168.7.1")
    facts = detect(HOST, Wishes())
    assert facts.own == HOST.own
    assert facts.neighbours == {OFFICE[44]}


@pytest.mark.parametrize(
    ("wishes", "found"),
    [
        (Wishes(interface="eth1"), ("eth1", "10.20.0.0/16", "10.20.0.1")),
        (Wishes(subnet=LAB), ("eth1", "10.20.0.0/16", "10.20.0.1")),
        (Wishes(interface="docker0"), ("docker0", "172.17.0.0/16", None)),
        (Wishes(interface="eth1", subnet=NET("10.9.0.0/24")), ("eth1", "10.9.0.0/24", None)),
        (Wishes(subnet=NET("10.9.0.0/24")), ("eth0", "10.9.0.0/24", None)),
        (Wishes(gateway=OFFICE[254]), ("eth0", "192.168.7.0/24", "192.168.7.254")),
    ],
)
def test_settings_go_first(wishes, found):
    assert lan(HOST, wishes) == found


def test_of_several_subnets_the_one_with_the_router():
    two = replace(HOST, routes=(Route("eth0", LAB), *HOST.routes))
    assert lan(two, Wishes(interface="eth0")) == ("eth0", "192.168.7.0/24", "192.168.7.1")
    unclear = replace(HOST, routes=(Route("eth0", LAB), Route("eth0", OFFICE)))
    with pytest.raises(ConfigError, match=r"eth0 has several subnets: 10\.20\.0\.0/16, 192\.168\.7\.0/24"):
        detect(unclear, Wishes(interface="eth0"))


@pytest.mark.parametrize(
    ("kernel", "wishes", "words"),
    [
        (without(HOST, "eth0", "eth1"), Wishes(), "no default route over Ethernet"),
        (without(HOST, "eth0"), Wishes(interface="eth0"), "eth0 has no IPv4 address"),
        (replace(without(HOST, "eth0"), ipv6=frozenset({"eth0"})), Wishes(interface="eth0"), "IPv6 addresses only"),
        (HOST, Wishes(interface="eth7"), "no interface eth7"),
        (HOST, Wishes(subnet=NET("10.0.0.0/31")), "no room for a decky"),
        (HOST, Wishes(interface="eth0", subnet=NET("10.0.0.0/32")), "no room for a decky"),
        (HOST, Wishes(ip_range=NET("10.20.0.0/24")), "ip-range 10.20.0.0/24 does not lie in 192.168.7.0/24"),
        (HOST, Wishes(gateway=LAB[1]), "gateway 10.20.0.1 does not lie in 192.168.7.0/24"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_reason(kernel, wishes, words):
    with pytest.raises(ConfigError) as refused:
        detect(kernel, wishes)
    assert words in refused.value.message
    assert refused.value.advice


OFFICE_LAN = KnownLan("eth0", OFFICE, OFFICE[1])


@pytest.mark.parametrize(
    ("kernel", "found"),
    [
        # the default route went to another interface, or away; the address is late
        (replace(HOST, routes=HOST.routes[2:]), ("eth0", "192.168.7.0/24", "192.168.7.1")),
        (without(HOST, "eth0"), ("eth0", "192.168.7.0/24", "192.168.7.1")),
        (without(HOST, "eth0", "eth1", "tun0"), ("eth0", "192.168.7.0/24", "192.168.7.1")),
        # another router; another place
        (
            replace(HOST, routes=(Route("eth0", DEFAULT, OFFICE[254]), Route("eth0", OFFICE))),
            ("eth0", "192.168.7.0/24", "192.168.7.254"),
        ),
        (
            replace(HOST, routes=(Route("eth0", DEFAULT, VPN[1]), Route("eth0", VPN))),
            ("eth0", "10.8.0.0/24", "10.8.0.1"),
        ),
    ],
)
def test_a_lan_by_which_deckies_live_stays_until_it_is_contradicted(kernel, found):
    assert lan(kernel, known=OFFICE_LAN) == found


def test_deckies_do_not_follow_an_interface_that_is_gone():
    gone = replace(without(HOST, "eth0"), interfaces={"eth1": True})
    with pytest.raises(ConfigError, match="eth0, on which the deckies live, is gone"):
        detect(gone, Wishes(), OFFICE_LAN)
    assert lan(gone, Wishes(interface="eth1"), OFFICE_LAN) == ("eth1", "10.20.0.0/16", "10.20.0.1")


ROUTE = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0107A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0007A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
*\t0000080A\t00000000\t0200\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
           |-- 192.168.7.9
              /32 host LOCAL
           |-- 192.168.7.255
              /32 link BROADCAST
"""
ARP = """\
IP address       HW type     Flags       HW address            Mask     Device
192.168.7.44     0x1         0x2         3c:d9:2b:00:00:01     *        eth0
192.168.7.45     0x1         0x0         00:00:00:00:00:00     *        eth0
"""
INET6 = """\
fe80000000000000021122fffe334455 02 40 20 80     eth0
20010db8000000000000000000000001 03 40 00 80     eth1
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "proc/net/route": ROUTE,
        "proc/net/fib_trie": TRIE,
        "proc/net/arp": ARP,
        "proc/net/if_inet6": INET6,
        "etc/resolv.conf": "search example.org\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\n",
        "run/systemd/resolve/resolv.conf": "# asked by itself\nnameserver 192.168.7.53\n",
        "sys/class/net/eth0/type": "1\n",
        "sys/class/net/eth1/type": "1\n",
        "sys/class/net/lo/type": "772\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_kernels_tables_are_read(root):
    kernel = read_kernel(root)
    assert kernel == Kernel(
        interfaces={"eth0": True, "eth1": True, "lo": False},
        routes=(Route("eth0", DEFAULT, OFFICE[1], 100), Route("eth0", OFFICE, None, 100)),
        own=frozenset({OFFICE[9]}),
        name_servers=frozenset({IPv4Address("127.0.0.53"), OFFICE[53]}),
        ipv6=frozenset({"eth1"}),
        neighbours={"eth0": frozenset({OFFICE[44]})},
    )


def test_a_kernel_without_tables_knows_nothing(tmp_path):
    assert read_kernel(tmp_path) == Kernel(interfaces={})


def test_this_machines_own_tables_are_read():
    kernel = read_kernel()
    assert kernel.interfaces["lo"] is False
    assert IPv4Address("127.0.0.1") in kernel.own


def test_settings_and_memory_meet_the_kernel(root, tmp_path):
    settings = AgentSettings(data_directory=tmp_path, excluded_addresses="192.168.7.100-192.168.7.199 192.168.7.5")
    facts = network_facts(settings, root=root)
    assert (facts.interface, facts.subnet, facts.gateway) == ("eth0", OFFICE, OFFICE[1])
    assert facts.excluded == (AddressRange(OFFICE[100], OFFICE[199]), AddressRange(OFFICE[5], OFFICE[5]))
    assert facts.why_not(OFFICE[53]) == "it is a name server's"
    remembered = StoredLan(interface="eth1", subnet=LAB)
    forgotten = AgentState(seed="0" * 64, lan=remembered)
    assert network_facts(settings, forgotten, root).interface == "eth0"
    lived_by = {"d": StoredAssignment(ip=LAB[7], mac="00:16:3e:00:00:01")}
    living = AgentState(seed="0" * 64, lan=remembered, assignments=lived_by)
    assert network_facts(settings, living, root).subnet == LAB
