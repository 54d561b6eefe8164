"""What a ruleset lets through: only answers, only as oneself. Run word by word, as the kernel does (`meaning`)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.containment.netlink import attributes, listed, messages
from decnet_agent.containment.pairs import Pair, Passage, Policy, Wanted, read_wanted, write_wanted
from decnet_agent.containment.ruleset import EGRESS, INGRESS, Ruleset, key_of, mac_bytes, make_ruleset, table_name
from decnet_agent.containment.table import _contents
from decnet_core.errors import ConfigError
from tests.containment.meaning import verdict

HOST = "02:00:00:00:00:01"
TARGET = bytes.fromhex("020000000077")

addresses = st.integers(0x0A000001, 0x0A0000FE).map(IPv4Address)
macs = st.integers(2, 250).map(lambda number: f"52:54:00:00:00:{number:02x}")
pairs = st.builds(
    Pair,
    decky=st.integers(1, 99).map(lambda number: f"decky{number}"),
    mac=macs,
    ip=addresses,
    udp_ports=st.lists(st.integers(1, 65535), max_size=2).map(tuple),
)
policies = st.lists(pairs, max_size=6, unique_by=(lambda pair: pair.mac, lambda pair: pair.ip)).map(
    lambda every: Policy(pairs=tuple(every))
)
interfaces = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/"), min_size=1, max_size=15
)


def ruleset(policy: Policy, interface: str = "eth0") -> Ruleset:
    return make_ruleset(interface, [HOST], policy, 9, "snk2e")


def ipv4(
    mac: str, source: IPv4Address, protocol: int, payload: bytes, target: str = "10.0.0.77", offset: int = 0
) -> bytes:
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, offset, 64, protocol, 0)
    return TARGET + mac_bytes(mac) + b"\x08\0" + header + source.packed + IPv4Address(target).packed + payload


def tcp(flags: int, port: int = 80) -> bytes:
    return struct.pack(">HHIIBBHHH", 22, port, 1, 0, 0x50, flags, 1024, 0, 0)


def arp(mac: str, sender: str, address: IPv4Address) -> bytes:
    body = b"\0\x01\x08\0\x06\x04\0\x02" + mac_bytes(sender) + address.packed + TARGET + bytes(4)
    return TARGET + mac_bytes(mac) + b"\x08\x06" + body


@given(policies, st.binary(max_size=120), st.sampled_from([EGRESS, INGRESS]))
def test_whatever_a_decky_says_is_accepted_or_goes_to_the_sink(policy, rest, hook):
    for pair in policy.pairs:
        frame = TARGET + mac_bytes(pair.mac) + rest
        assert verdict(ruleset(policy), hook, "eth0", frame) in {"accept", "forward"}


@given(policies, macs, addresses, st.integers(0, 255))
def test_tcp_passes_as_oneself_and_not_to_begin_with(policy, mac, address, flags):
    passes = verdict(ruleset(policy), EGRESS, "eth0", ipv4(mac, address, 6, tcp(flags))) == "accept"
    is_itself = any((pair.mac, pair.ip) == (mac, address) for pair in policy.pairs)
    assert passes == (is_itself and flags & 0x12 != 0x02)


@given(policies, macs, macs, addresses)
def test_arp_passes_with_ones_own_addresses_alone(policy, mac, sender, address):
    own = {(pair.mac, pair.ip) for pair in policy.pairs}
    passes = verdict(ruleset(policy), EGRESS, "eth0", arp(mac, sender, address)) == "accept"
    assert passes == ({(mac, address), (sender, address)} <= own)


@given(policies, st.integers(0, 65535), st.integers(0, 255))
def test_udp_passes_from_declared_ports_and_icmp_that_answers(policy, port, kind):
    for pair in policy.pairs:
        datagram = ipv4(pair.mac, pair.ip, 17, struct.pack(">HHHH", port, 53, 8, 0))
        message = ipv4(pair.mac, pair.ip, 1, bytes([kind]) + bytes(7))
        rules = ruleset(policy)
        assert (verdict(rules, EGRESS, "eth0", datagram) == "accept") == (port in pair.udp_ports)
        assert (verdict(rules, EGRESS, "eth0", message) == "accept") == (kind in {0, 3, 11})


@given(policies, st.sampled_from([0x86DD, 0x8100, 0x88A8, 0x8863, 0x0027, 0x0805]), st.binary(max_size=60))
def test_nothing_else_passes(policy, kind, rest):
    for pair in policy.pairs:
        frame = TARGET + mac_bytes(pair.mac) + kind.to_bytes(2, "big") + rest
        assert verdict(ruleset(policy), EGRESS, "eth0", frame) == "forward"


@given(policies, st.integers(1, 0x1FFF))
def test_a_later_part_of_a_datagram_does_not_pass(policy, offset):
    for pair in policy.pairs:
        for protocol in (1, 6, 17):
            frame = ipv4(pair.mac, pair.ip, protocol, tcp(0x10), offset=offset)
            assert verdict(ruleset(policy), EGRESS, "eth0", frame) == "forward"


@given(policies, macs, st.binary(max_size=60))
def test_what_leaves_is_a_deckys_or_the_hosts(policy, mac, rest):
    known = {pair.mac for pair in policy.pairs}
    assert verdict(ruleset(policy), EGRESS, "eth0", TARGET + mac_bytes(HOST) + rest) == "accept"
    if mac not in known:
        assert verdict(ruleset(policy), EGRESS, "eth0", TARGET + mac_bytes(mac) + rest) == "forward"
        assert verdict(ruleset(policy), INGRESS, "eth0", TARGET + mac_bytes(mac) + rest) == "accept"


@given(st.binary(max_size=60))
def test_the_host_hears_nothing_of_what_is_blocked(frame):
    assert verdict(ruleset(Policy()), INGRESS, "snk2e", frame.ljust(14, b"\0")) == "drop"


def test_the_operator_may_let_deckies_go_somewhere():
    pair = Pair(decky="a", mac="52:54:00:00:00:02", ip="10.0.0.9")
    rules = ruleset(Policy(pairs=(pair,), passages=(Passage.parse("tcp:10.0.0.0/26:53"),)))

    def passes(target: str, port: int, protocol: int = 6, source: str = "10.0.0.9") -> bool:
        frame = ipv4(pair.mac, IPv4Address(source), protocol, tcp(0x02, port), target)
        return verdict(rules, EGRESS, "eth0", frame) == "accept"

    assert passes("10.0.0.63", 53)
    assert not passes("10.0.0.64", 53)
    assert not passes("10.0.0.63", 54)
    assert not passes("10.0.0.63", 53, protocol=17)
    assert not passes("10.0.0.63", 53, source="10.0.0.10")


@given(policies)
def test_a_set_holds_the_keys_of_the_policy_and_of_nothing_else(policy):
    sets = {each.name: each.keys for each in ruleset(policy).sets}
    assert sets["deckies"] == {mac_bytes(pair.mac) for pair in policy.pairs}
    assert sets["pairs"] == {key_of(mac_bytes(pair.mac), pair.ip.packed) for pair in policy.pairs}
    assert len(sets["pairs"]) == len(policy.pairs)
    assert all(len(key) == each.key_bytes for each in ruleset(policy).sets for key in each.keys)


@given(policies, policies)
def test_what_stands_in_the_rules_is_the_same_for_any_deckies(one, other):
    assert ruleset(one).chains == ruleset(other).chains


@given(interfaces, interfaces)
def test_a_table_is_named_as_nft_can_be_told_and_no_two_are_the_same(one, other):
    names = {table_name(one), table_name(other)}
    assert all(name.replace("-", "").replace(".", "").replace("_", "").isalnum() for name in names)
    assert len(names) == len({one, other})


@given(policies, interfaces)
def test_every_message_is_read_back_whole(policy, interface):
    for message in _contents(ruleset(policy, interface)):
        ((again, sequence),) = messages(message.packed(7))
        assert (again.kind, again.flags, sequence) == (message.kind, message.flags, 7)
        found = attributes(again.body[4:])
        assert found[1] == table_name(interface).encode() + b"\0"
        assert sum(4 + len(value) + -len(value) % 4 for _, value in listed(again.body[4:])) == len(again.body[4:])


@given(st.binary(max_size=200))
def test_the_kernels_messages_are_read_whatever_they_are(data):
    for message, _ in messages(data):
        attributes(message.body)
    attributes(data)


@pytest.mark.parametrize(
    "text", ["", "tcp:10.0.0.1", "icmp:10.0.0.1:1", "tcp:host:53", "tcp:10.0.0.1/24:53", "tcp:10.0.0.1:0"]
)
def test_a_passage_that_is_none(text):
    with pytest.raises(ValueError, match=r"."):
        Passage.parse(text)


@given(pairs, pairs)
def test_what_is_held_grows(one, other):
    joined = Policy(pairs=(one,)).joined([other])
    assert {(pair.mac, pair.ip) for pair in joined} == {(one.mac, one.ip), (other.mac, other.ip)}


def test_what_was_asked_for_outlives_us(tmp_path):
    assert read_wanted(tmp_path) == Wanted()
    wanted = Wanted(interfaces={"eth0": Policy(pairs=(Pair(decky="a", mac="52:54:00:00:00:02", ip="10.0.0.9"),))})
    write_wanted(tmp_path / "new", wanted)
    assert read_wanted(tmp_path / "new") == wanted
    (tmp_path / "new/wanted.json").write_text('{"interfaces": {"eth0": {"pairs": [{"decky": "A b"}]}}}')
    with pytest.raises(ConfigError):
        read_wanted(tmp_path / "new")
