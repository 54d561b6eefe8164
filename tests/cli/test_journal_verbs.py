"""`journal status`, `journal verify` and `journal set-aside`: what they print, and what they end with."""

from __future__ import annotations

import json
from pathlib import Path

from decnet_master.journal.segments import segment_path
from tests.cli.conftest import Cli
from tests.journal.test_verification import filled


def journal_of(cli: Cli) -> Path:
    folder = cli.folder / "data" / "journal"
    filled(folder).close()
    return folder


def test_status_tells_what_waits_and_how_much_room_there_is(cli: Cli) -> None:
    folder = journal_of(cli)
    done = cli("journal", "status", "--json")
    assert done.code == 0, done
    told = json.loads(done.out)
    assert (told["segments"], told["oldest"]["segment"], told["newest"]["segment"]) == (4, 1, 4)
    assert told["bytes"] == sum(path.stat().st_size for path in folder.glob("*.seg"))
    assert told["backlog"]["lines"] > 10
    assert told["ingested"] == {"segment": 0, "offset": 0}
    assert {row["stream"] for row in told["streams"]} == {"s1", "s2"}
    shown = cli("journal", "status")
    assert shown.code == 0, shown
    assert f"{told['backlog']['lines']} lines" in shown.out


def test_status_needs_no_database(cli: Cli) -> None:
    journal_of(cli)
    (cli.folder / "data" / "decnet.sqlite3").unlink()
    done = cli("journal", "status", "--json")
    assert done.code == 0, done
    assert json.loads(done.out)["backlog"] is None
    assert "does not exist" in cli("journal", "status").out


def test_verify_ends_with_1_when_it_is_damaged(cli: Cli) -> None:
    folder = journal_of(cli)
    whole = cli("journal", "verify", "--json")
    assert (whole.code, json.loads(whole.out)["ok"]) == (0, True)
    path = segment_path(folder, 2)
    path.write_bytes(path.read_bytes()[:-9] + b"!" + path.read_bytes()[-8:])
    damaged = cli("journal", "verify", "--json")
    assert (damaged.code, json.loads(damaged.out)["faults"][0]["segment"]) == (1, 2)
    shown = cli("journal", "verify")
    assert shown.code == 1
    assert "segment 2" in shown.err
    assert "check sum" in shown.out


def test_no_journal_is_4(cli: Cli) -> None:
    assert cli("journal", "verify").code == 4
    assert cli("journal", "status").code == 4


def test_set_aside_asks_keeps_everything_and_says_what_is_missing(cli: Cli) -> None:
    folder = journal_of(cli)
    nothing = cli("journal", "set-aside")
    assert (nothing.code, nothing.out) == (0, "Nothing is damaged.\n")
    path = segment_path(folder, 2)
    broken = path.read_bytes()[:-9] + b"!" + path.read_bytes()[-8:]
    path.write_bytes(broken)
    assert cli("journal", "set-aside").code == 1, "nobody confirmed it"
    assert path.read_bytes() == broken
    done = cli("journal", "set-aside", "--yes", "--json")
    assert done.code == 0, done
    told = json.loads(done.out)
    (stretch,) = told["set_aside"]
    assert (stretch["segment"], stretch["is_stored"]) == (2, False)
    assert told["missing_bytes"] == stretch["end"] - stretch["start"]
    (kept,) = Path(told["folder"]).iterdir()
    assert kept.read_bytes() == broken
    whole = cli("journal", "verify", "--json")
    assert (whole.code, json.loads(whole.out)["lost_bytes"]) == (0, told["missing_bytes"])


def test_set_aside_leaves_a_journal_alone_that_is_written(cli: Cli) -> None:
    assert cli("journal", "set-aside", "--yes").code == 4
    folder = cli.folder / "data" / "journal"
    writer = filled(folder)
    refused = cli("journal", "set-aside", "--yes")
    writer.close()
    assert refused.code == 5
    assert "listener" in refused.err
