"""A contract says what a service needs and offers; what breaks a rule is refused by file and key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.contracts import PERMITTED, makeup, parse_contract, read_contract
from decnet_agent.engine.contexts import ImageContexts
from decnet_agent.evidence.guest_lines import SERVICE_OF_PROGRAM
from decnet_agent.tap.attribution import SERVERS
from decnet_core.errors import ConfigError, Conflict

GOOD = """
contract = 1
service = "gopher"
pretends = "a gopher server"
packages = ["pygopherd"]
capabilities = ["NET_BIND_SERVICE", "SETUID"]
reset = "recreate"
health = { process = "/usr/sbin/pygopherd", port = 70 }
accounts = { passwords = "none", root = false }
taps = { servers = ["/usr/sbin/pygopherd"], programs = ["pygopherd"], passwords = "none" }
"""


def written(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "contract.toml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("contract = 1", "contract = 2", "contract: "),
        ('service = "gopher"', 'service = "Gopher"', "service: "),
        ('reset = "recreate"', 'reset = "never"', "reset: "),
        ('reset = "recreate"', 'reset = "recreate"\ncolour = "red"', "colour: "),
        ('"NET_BIND_SERVICE", "SETUID"', '"NET_RAW"', "capabilities: NET_RAW is not permitted in a decky"),
        ('"NET_BIND_SERVICE", "SETUID"', '"SETUID", "NET_BIND_SERVICE"', "capabilities: write each once, in order"),
        ('["pygopherd"]\ncap', "[]\ncap", "packages: "),
        ('["pygopherd"]\ncap', '["pygopherd; reboot"]\ncap', "packages.0: "),
        ("port = 70", "port = 0", "health.port: "),
        ("port = 70", "port = 65536", "health.port: "),
        ('process = "/usr/sbin/pygopherd"', 'process = "pygopherd"', "health.process: "),
        (", root = false", "", "accounts.root: "),
        ('passwords = "none", root', 'passwords = "spec", root', "as a whole: accounts.passwords and taps.passwords"),
        ("health = {", "health = [", "is not TOML"),
    ],
)
def test_each_refusal_names_file_and_key(tmp_path, was, becomes, said):
    assert was in GOOD
    folder = written(tmp_path / "gopher", GOOD.replace(was, becomes))
    with pytest.raises(ConfigError) as raised:
        read_contract(folder)
    assert str(folder / "contract.toml") in raised.value.message
    assert said in raised.value.message


def test_a_contract_lies_in_a_folder_of_its_name(tmp_path):
    with pytest.raises(ConfigError, match="service: is gopher, but its folder is called archie"):
        read_contract(written(tmp_path / "archie", GOOD))


def test_a_missing_contract_is_named(tmp_path):
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "nothing/contract.toml"))):
        read_contract(tmp_path / "nothing")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_contract_or_refused_by_name(content):
    with pytest.raises(ConfigError, match=r"^here "):
        parse_contract(b"\x00" + content, "here ")


def test_services_that_want_one_port_are_no_machine():
    one = parse_contract(GOOD.encode(), "one")
    with pytest.raises(Conflict, match="gopher and archie both want port 70"):
        makeup([one, one.model_copy(update={"service": "archie"})])


def test_a_machine_has_what_all_its_services_need():
    gopher, ssh = parse_contract(GOOD.encode(), "one"), ImageContexts().contract("ssh")
    together = makeup([gopher, ssh])
    assert together.ports == {22, 70}
    assert set(together.capabilities) == set(gopher.capabilities) | set(ssh.capabilities)
    assert makeup([gopher]).capabilities == ("SETUID", "NET_BIND_SERVICE")
    assert set(together.capabilities) <= set(PERMITTED)


def test_the_taps_know_every_server_of_every_contract():
    contexts = ImageContexts()
    contracts = [contexts.contract(service) for service in sorted(contexts.services())]
    assert {contract.service for contract in contracts} == {"ssh", "telnet"}
    servers = {path.encode(): contract.service for contract in contracts for path in contract.taps.servers}
    assert servers == SERVERS
    programs = {name: contract.service for contract in contracts for name in contract.taps.programs}
    assert programs == SERVICE_OF_PROGRAM


def test_a_contexts_dates_are_settled_the_same_way():
    contexts = ImageContexts()
    texts = {(contexts.folder(name) / "settle.pl").read_text() for name in ("base", *contexts.services())}
    assert len(texts) == 1
