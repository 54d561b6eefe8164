"""The fleet file as INI: it declares what the same in TOML does, and tells each fault with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_master.fleet_file import FleetFileError, parse_fleet
from decnet_master.planning import DeckyGroup

GOOD = """\
# The head office.
[vault-01]
services = ssh, http
host = w1

[files]          ; files-01 to files-03
count = 3
labels = site=hq rack=2
[tills]
count = 0
hosts = w1 w2    # the other one
"""

TOML = """
[[decky]]
name = "vault-01"
services = ["ssh", "http"]
host = "w1"
[[group]]
prefix = "files"
count = 3
labels = { site = "hq", rack = "2" }
[[group]]
prefix = "tills"
count = 0
hosts = ["w1", "w2"]
"""


def faults(text: str, name: str = "fleet.ini") -> tuple[str, ...]:
    with pytest.raises(FleetFileError) as refused:
        parse_fleet(text.encode(), name)
    assert all(fault.isprintable() for fault in refused.value.faults)
    return refused.value.faults


def test_it_declares_what_the_same_in_toml_does() -> None:
    declared = parse_fleet(GOOD.encode(), "Fleet.INI")
    assert declared == parse_fleet(TOML.encode(), "fleet.toml")
    assert declared[1] == DeckyGroup(("files-01", "files-02", "files-03"), ("ssh",), (), {"site": "hq", "rack": "2"})
    assert parse_fleet(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode(), "f.ini") == declared
    assert parse_fleet(b"[a]", "f.ini") == (DeckyGroup(("a",)),)


def test_only_its_name_makes_a_file_ini() -> None:
    for name in ("fleet.toml", "fleet", "-", "ini"):
        assert faults(GOOD, name)[0].startswith(f"{name}:")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("host = w1", "hots = w1", "fleet.ini:4: unknown key 'hots'; did you mean 'host'?"),
        ("host = w1", "hosts = w1", "fleet.ini:4: unknown key 'hosts'; did you mean 'host'?"),
        ("host = w1", "name = w1", "fleet.ini:4: name: the section's title says it"),
        ("host = w1", "prefix = w1", "fleet.ini:4: prefix: the section's title says it"),
        ("host = w1", "host", "fleet.ini:4: this is neither [name] nor key = value"),
        ("host = w1", "= w1", "fleet.ini:4: this is neither [name] nor key = value"),
        ("host = w1", "host = w1\nhost = w2", "fleet.ini:5: host: it is said already, in line 4"),
        ("host = w1", "host =", "fleet.ini:4: host: a name is one lower-case host label"),
        ("[vault-01]", "", "fleet.ini:3: 'services' stands before the first [name]"),
        ("[vault-01]", "[Vault_01]", "fleet.ini:2: name: a name is one lower-case host label"),
        ("[vault-01]", "[files-02]", "fleet.ini:6: prefix: files-02 is declared already, in line 2"),
        ("[files]", "[]", "fleet.ini:6: prefix: string should match"),
        ("ssh, http", "", "fleet.ini:3: services: list should have at least 1 item"),
        ("ssh, http", "ssh ssh", "fleet.ini:2: decky: a service or a host is named twice"),
        ("ssh, http", "ssh, HTTP", "fleet.ini:3: services: string should match"),
        ("count = 3", "count = three", "fleet.ini:7: count: input should be a valid integer"),
        ("count = 3", "count = ", "fleet.ini:7: count: input should be a valid integer"),
        ("count = 3", "count = ٣", "fleet.ini:7: count: input should be a valid integer"),
        ("count = 3", f"count = {'9' * 5000}", "fleet.ini:7: count: input should be a valid integer"),
        ("count = 3", "count = 10001", "fleet.ini:7: count: input should be less than or equal to 10000"),
        ("rack=2", "rack", "fleet.ini:8: labels: 'rack' is no KEY=VALUE"),
        ("rack=2", "site=lab", "fleet.ini:8: labels: 'site=lab' is said already"),
        ("rack=2", "Rack=2", "fleet.ini:8: labels.Rack"),
    ],
)
def test_a_fault_is_told_with_its_line(old: str, new: str, expected: str) -> None:
    found = faults(GOOD.replace(old, new, 1))
    assert any(fault.startswith(expected) for fault in found), found


def test_faults_are_told_in_their_order_and_not_too_many() -> None:
    assert [fault.split(": ")[0] for fault in faults("x\n[a]\ny\n")] == ["fleet.ini:1", "fleet.ini:3"]
    assert len(faults("x\n" * 1000)) == 20


@pytest.mark.parametrize("text", ["", "# nothing\n", "[files]\ncount = 0\n"])
def test_a_file_without_a_decky_is_refused(text: str) -> None:
    assert "declares no decky" in faults(text)[0]


@given(st.binary(max_size=300) | st.text(alphabet="[]=#;,\n\r abc1-", max_size=80).map(str.encode))
def test_any_bytes_are_a_fleet_or_faults_with_lines_that_are_there(raw: bytes) -> None:
    try:
        groups = parse_fleet(raw, "f.ini")
    except FleetFileError as refused:
        for fault in refused.faults:
            line = fault.removeprefix("f.ini:").split(":")[0].strip()
            assert not line.isdigit() or 1 <= int(line) <= raw.count(b"\n") + 1
        return
    assert any(group.names for group in groups)
