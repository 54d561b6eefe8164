"""The fleet file: what it declares, and where each fault stands."""

from __future__ import annotations

import time
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_master.fleet_file import MAX_FILE_BYTES, FleetFileError, parse_fleet
from decnet_master.planning import DeckyGroup
from decnet_master.toml_lines import TomlLines

GOOD = """\
# The head office.
[[decky]]
name = "vault-01"
services = ["ssh", "http"]
host = "w1"

[[group]]
prefix = "files"
count = 3
labels = { site = "hq" }

[[group]]
prefix = "tills"
count = 0
hosts = [
  "w1",
  "w2",  # the other one
]
"""


def faults(text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(FleetFileError) as refused:
        parse_fleet(text if isinstance(text, bytes) else text.encode(), "fleet.toml")
    assert all(fault.isprintable() for fault in refused.value.faults)
    assert refused.value.message.startswith(refused.value.faults[0])
    return refused.value.faults


def test_a_file_declares_deckies() -> None:
    assert parse_fleet(GOOD.encode(), "f") == (
        DeckyGroup(("vault-01",), ("ssh", "http"), ("w1",), {}),
        DeckyGroup(("files-01", "files-02", "files-03"), ("ssh",), (), {"site": "hq"}),
        DeckyGroup((), ("ssh",), ("w1", "w2"), {}),
    )
    assert parse_fleet(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode(), "f") == parse_fleet(GOOD.encode(), "f")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('host = "w1"', 'hots = "w1"', "fleet.toml:5: unknown key 'hots'; did you mean 'host'?"),
        ("[[decky]]", "[[deckies]]", "fleet.toml:2: unknown key 'deckies'; did you mean 'decky'?"),
        ("[[decky]]", "[decky]", "fleet.toml:2: decky: input should be a valid list"),
        ('name = "vault-01"', "", "fleet.toml:2: [[decky]] needs the key 'name'"),
        ("count = 3\n", "", "fleet.toml:7: [[group]] needs the key 'count'"),
        ("count = 3", 'count = "3"', "fleet.toml:9: count: input should be a valid integer"),
        ("count = 3", "count = 3.0", "fleet.toml:9: count: input should be a valid integer"),
        ("count = 3", "count = true", "fleet.toml:9: count: input should be a valid integer"),
        ("count = 3", "count = -1", "fleet.toml:9: count: input should be greater than or equal to 0"),
        ("count = 3", "count = 10001", "fleet.toml:9: count: input should be less than or equal to 10000"),
        ("count = 3", "count = 10000", "fleet.toml:8: group: these are more than 10000 deckies"),
        ('"vault-01"', '"Vault_01"', "fleet.toml:3: name: a name is one lower-case host label: letters, digits and "),
        ('"vault-01"', '"files-02"', "fleet.toml:8: prefix: files-02 is declared already, in line 3"),
        ('["ssh", "http"]', "[]", "fleet.toml:4: services: list should have at least 1 item"),
        ('["ssh", "http"]', '"ssh"', "fleet.toml:4: services: input should be a valid list"),
        ('["ssh", "http"]', '["ssh", 1]', "fleet.toml:4: services: input should be a valid string"),
        ('["ssh", "http"]', '["ssh", "ssh"]', "fleet.toml:2: decky: a service or a host is named twice"),
        ('{ site = "hq" }', '{ Site = "hq" }', "fleet.toml:10: labels.Site"),
        ('{ site = "hq" }', "{ site = 1 }", "fleet.toml:10: labels.site: input should be a valid string"),
        ('  "w2",', '  "w 2",', "fleet.toml:15: hosts: a name is one lower-case host label"),
        ("count = 3", "count = ", "fleet.toml:9: this is not TOML: Invalid value"),
        ("count = 3", "count = 3\ncount = 4", "fleet.toml:10: this is not TOML: Cannot overwrite a value"),
        ("]\n", "\n", "fleet.toml:"),
    ],
)
def test_a_fault_is_told_with_its_line(old: str, new: str, expected: str) -> None:
    assert GOOD.count(old) >= 1
    found = faults(GOOD.replace(old, new, 1))
    assert any(fault.startswith(expected) for fault in found), found


def test_a_fault_acts_on_no_terminal_and_has_an_end() -> None:
    (fault,) = faults('[[decky]]\nname = "a"\nlabels = { "\\u001b[2J" = "x" }\n')
    assert "[2J" in fault
    (fault,) = faults(f"[[decky]]\nname = 'a'\n{'x' * 100_000} = 1\n")
    assert len(fault) < 400
    assert faults('"x\u0085\u2028y')[0].startswith("fleet.toml:1: "), "those end no line in TOML"


def test_all_faults_are_told_in_their_order_and_not_too_many() -> None:
    found = faults(GOOD.replace('host = "w1"', "host = 1").replace("count = 3", "count = 3\ncuont = 3"))
    assert [fault.split(": ")[0] for fault in found] == ["fleet.toml:5", "fleet.toml:10"]
    assert len(faults("[[group]]\n" * 1000)) == 20


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        '[[group]]\nprefix = "a"\ncount = 0\n',
        b"\xff\xfe",
        b"[[decky]]\nname = 'a\xff'",
        "x = " + "[" * 5000,
        "#" * (MAX_FILE_BYTES + 1),
        "name = 'top-level'",
        "decky = 1",
        "decky = [1]",
        "[[decky]]\nname = 'a'\n[[decky.services]]\n",
        "[[decky]]\nname = 'a'\n[[decky]]\nname = 'a'",
    ],
)
def test_what_is_no_fleet_file_is_refused(text: str | bytes) -> None:
    assert all(fault.startswith("fleet.toml:") for fault in faults(text))


@given(st.binary(max_size=300) | st.text(alphabet="[]{}=\"'#.,\n abc1_-", max_size=80).map(str.encode))
def test_any_bytes_are_a_fleet_or_a_fault(raw: bytes) -> None:
    try:
        groups = parse_fleet(raw, "f")
    except FleetFileError:
        return
    assert any(group.names for group in groups)


@given(st.text(alphabet="[]{}=\"'#.,\n\r abc1_-", max_size=120))
def test_lines_are_found_in_any_document(text: str) -> None:
    try:
        tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return
    assert 1 <= TomlLines(text).of(("a", 0, "b")) <= text.count("\n") + 1


def test_lines_of_values() -> None:
    text = 'a = 1\n\n# words\n[b.c]\nd = { e = [\n1,\n2] }\n[[b.f]]\n[[b.f]]\n"g h" = """\nx = 1\n"""\n[b.f.i]\nj = 1\n'
    lines = TomlLines(text)
    wanted = {
        ("a",): 1,
        ("b", "c"): 4,
        ("b", "c", "d"): 5,
        ("b", "c", "d", "e", 1): 5,
        ("b", "f", 0): 8,
        ("b", "f", 1): 9,
        ("b", "f", 1, "g h"): 10,
        ("b", "f", 1, "i", "j"): 14,
        ("b", "f", 1, "z"): 9,
        ("z",): 1,
    }
    assert {path: lines.of(path) for path in wanted} == wanted


def test_what_is_nested_without_end_is_a_fault_too() -> None:
    def nested(depth: int) -> str:
        return "[[decky]]\nname = 'a'\nservices = " + "[" * depth + "]" * depth + "\nmore = 1\n"

    fits, fails = 1, 1100  # Python lets calls nest a thousand deep
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (fits, middle) if "too deeply" in faults(nested(middle))[0] else (middle, fails)
    for depth in range(fits - 8, fails):  # where the whole text just gets through
        assert any("more" in fault for fault in faults(nested(depth)))
    deep = ".x" * 3000
    for text in (f"a{deep} = 1", f"[a{deep}]", f"[[decky]]\nname = 'a'\nlabels{deep} = 1", f"[[decky{deep}]]"):
        assert faults(text)


def test_a_long_file_with_a_fault_at_its_end_is_told_at_once() -> None:
    deckies = "".join(f'[[decky]]\nname = "d-{number}"\nhost = "w{number}"\n' for number in range(9_000))
    hosts = "[[group]]\nprefix = 'x'\ncount = 1\nhosts = [\n" + '  "w1",\n' * 9_000 + "]\nlast = 1\n"
    begun = time.process_time()
    (fault,) = [fault for fault in faults(deckies + hosts) if "last" in fault]
    assert fault.startswith(f"fleet.toml:{9_000 * 3 + 4 + 9_000 + 2}: ")
    assert time.process_time() - begun < 20
