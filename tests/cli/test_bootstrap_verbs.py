"""The line for a bare host and the wheels behind it, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from decnet_core.enrolment import JoinToken
from decnet_core.errors import ExitCode
from decnet_master.bootstrap.line import make_line, script_sha256
from tests.cli.conftest import Cli
from tests.swarm.bundled import MACHINE, MINOR, VERSION, fill

TARGET = f"Python 3.{MINOR} on {MACHINE}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--without", "tap"],
        ["--without-updater"],
        ["--install-docker"],
        ["--bootstrap", "--out-dir", "x"],
        ["--bootstrap", "--address", "x"],
        ["--bootstrap", "--without", "agent"],
    ],
)
def test_what_does_not_go_together_is_a_usage_error(cli: Cli, arguments: list[str]) -> None:
    assert cli("swarm", "enroll", "w1", *arguments).code == ExitCode.USAGE


def test_a_bundle_is_built_and_shown(cli: Cli, tmp_path: Path) -> None:
    missing = cli("bundle", "show")
    assert (missing.code, "bundle build" in missing.err) == (ExitCode.NOT_FOUND, True)
    house = fill(tmp_path / "house")
    built = cli("bundle", "build", "--wheels", str(house), "--json")
    assert built.code == 0, built.err
    assert json.loads(built.out)["targets"] == [{"target": TARGET, "lacks": None}]
    assert json.loads(cli("bundle", "show", "--json").out) == json.loads(built.out)
    assert f"Release {VERSION}" in cli("bundle", "show").out
    assert cli("bundle", "build", "--wheels", str(tmp_path / "nowhere")).code == ExitCode.NOT_FOUND


@pytest.mark.slow
def test_a_line_is_printed_when_there_is_something_behind_it(served: Cli, tmp_path: Path) -> None:
    refused = served("swarm", "enroll", "w1", "--bootstrap")
    assert refused.code == ExitCode.NOT_FOUND, refused
    assert json.loads(served("swarm", "tokens", "list", "--json").out)["tokens"] == []
    assert served("bundle", "build", "--wheels", str(fill(tmp_path / "house"))).code == 0

    options = ["--bootstrap", "--without-updater", "--without", "tap", "--install-docker"]
    printed = json.loads(served("swarm", "enroll", "w1", *options, "--json").out)
    token = JoinToken.parse(printed["token"])
    line = make_line(token, script_sha256(), ["--without-tap", "--without-updater", "--install-docker"])
    assert (printed["line"], printed["line_without_token"]) == (line.whole, line.command)
    assert printed["targets"] == [TARGET]

    said = served("swarm", "enroll", "w2", "--bootstrap", "--ttl-minutes", "5")
    (pasted,) = [words for words in said.out.splitlines() if words.startswith("printf %s ")]
    assert pasted.count("decnet-join.") == 1  # in one piece, however narrow the terminal
    assert TARGET in said.out
