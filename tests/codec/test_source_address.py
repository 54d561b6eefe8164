"""The attacker's address out of free text: what programs write, and what attackers write into it."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.syslog.rfc5424 import source_address_of


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("src=192.0.2.7", "192.0.2.7"),
        ("IN=eth0 OUT= SRC=192.0.2.7 DST=198.51.100.9 LEN=60", "192.0.2.7"),
        ("action=deny dst=198.51.100.9 src_ip=192.0.2.7", "192.0.2.7"),
        ('{"src_ip":"198.51.100.1"} srcip="192.0.2.7"', "192.0.2.7"),
        ("authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7  user=root", "192.0.2.7"),
        ("client: 192.0.2.7, server: _, request: GET /", "192.0.2.7"),
        ("remote_addr=192.0.2.7:51234", "192.0.2.7"),
        ("src=[2001:DB8::7]:443", "2001:db8::7"),
        ("src=2001:db8:0:0::7", "2001:db8::7"),
        ("rhost=::ffff:192.0.2.7", "192.0.2.7"),
        ("rhost=fe80::1%eth0", "fe80::1"),
        ("Failed password for root from 192.0.2.7 port 40022 ssh2", "192.0.2.7"),
        (" Accepted publickey for x from 2001:db8::7 port 40022 ssh2: ED25519 SHA256:abc/+d", "2001:db8::7"),
        ('Connection from 192.0.2.7 port 40022 on 198.51.100.9 port 22 rdomain ""', "192.0.2.7"),
        ("Connection closed by authenticating user root 192.0.2.7 port 40022 [preauth]", "192.0.2.7"),
        ("Received disconnect from 192.0.2.7 port 40022:11: Bye Bye", "192.0.2.7"),
        (" Connection from 192.0.2.7 port 40022", "192.0.2.7"),
        ("user x from 203.0.113.66 port 1 from 192.0.2.7 port 40022 not allowed", "192.0.2.7"),
        ("connect from 192.0.2.7 (192.0.2.7)", "192.0.2.7"),
        ("FAILED LOGIN (1) on '/dev/pts/0' from '192.0.2.7' FOR 'root', Authentication failure", "192.0.2.7"),
        ("It came from 192.0.2.7.", "192.0.2.7"),
        ("src=0.0.0.0 rhost=192.0.2.7", "192.0.2.7"),
        ("src=gateway rhost=192.0.2.7", "192.0.2.7"),
    ],
)  # fmt: skip
def test_an_address_is_found(text: str, address: str) -> None:
    assert source_address_of(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "hello from nowhere", "from face:b00k", "src=", "src=300.1.1.1", "src=1.2.3", "src=01.2.3.4",
        "dst=192.0.2.7", "resrc=192.0.2.7", "version 1.2.3.4", "src=::", "src=1.2.3.4.5", "src=12:34:56",
        "from dead:beef", "Server listening on 192.0.2.7 port 22",
    ],
)  # fmt: skip
def test_no_address_is_made_up(text: str) -> None:
    assert source_address_of(text) is None


@pytest.mark.parametrize(
    "user",
    ["src=203.0.113.66", "x from 203.0.113.66 port 22 ssh2", "rhost=203.0.113.66 from 203.0.113.66 port 1", "\n"],
)
def test_a_user_name_does_not_name_the_source_of_a_sentence_of_openssh(user: str) -> None:
    assert source_address_of(f"Failed password for invalid user {user} from 192.0.2.7 port 40022 ssh2") == "192.0.2.7"
    assert source_address_of(f"Invalid user {user} from 192.0.2.7 port 40022") == "192.0.2.7"
    assert source_address_of(f"Connection closed by invalid user {user} 192.0.2.7 port 40022 [preauth]") == "192.0.2.7"


def test_a_reason_for_a_disconnect_does_not_name_the_source() -> None:
    text = "Received disconnect from 192.0.2.7 port 40022:11: src=203.0.113.66 from 203.0.113.66 port 1"
    assert source_address_of(text) == "192.0.2.7"


@given(
    st.text()
    | st.lists(st.sampled_from(["src=", "from ", " port 1", "1.", "::", "%", ":", "f", " ", "."])).map("".join)
)
def test_any_text_gives_a_canonical_address_or_none(text: str) -> None:
    address = source_address_of(text)
    assert address is None or str(ipaddress.ip_address(address)) == address


@given(st.ip_addresses())
def test_every_address_is_found(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    canonical = mapped or address
    for text in (f"src={address} x", f"Failed password for a from {address} port 1 ssh2", f"from {address}"):
        assert source_address_of(text) == (None if canonical.is_unspecified else str(canonical))


@pytest.mark.parametrize("unit", ["src=1.1.1 ", "from 1:1 port ", "1", ":", "src=", "from from ", "Connection from "])
def test_long_texts_cost_linear_time(unit: str) -> None:
    text = (unit * 262_144)[:262_144]
    began = time.process_time()
    assert source_address_of(text) is None
    assert time.process_time() - began < 2  # takes 0.1 s at most
