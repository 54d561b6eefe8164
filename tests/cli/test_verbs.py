"""The verbs against a master that runs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import socket
import stat
from pathlib import Path

import pytest

from decnet_core.enrolment import JoinToken
from decnet_master.settings import MasterSettings
from decnet_master.store import Store
from tests.api.conftest import Feed
from tests.cli.conftest import Cli
from tests.swarm.master import settings_in


async def _feed(settings: MasterSettings, *numbers: int, **changes: object) -> None:
    async with await Store.open(settings.database) as store:
        await Feed(store).add(*numbers, **changes)


def feed(cli: Cli, *numbers: int, **changes: object) -> None:
    asyncio.run(_feed(settings_in(cli.folder), *numbers, **changes))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
def test_init_makes_a_master_once(bare: Cli) -> None:
    first = bare.process("init")
    assert first.code == 0, first
    password = re.search(r"password (\S+) ", first.out)
    assert password is not None
    data = bare.folder / "data"
    assert mode(data) & 0o027 == 0
    for folder in ("ca", "identities", "journal"):
        assert mode(data / folder) == 0o700
    for secret in ("controller.secret", "api.secret", "ca/ca.key", "identities/master/key.pem", "decnet.sqlite3"):
        assert mode(data / secret) == 0o600
    kept = {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.suffix != ".sqlite3"}

    again = bare.process("init", "--json")
    assert again.code == 0, again
    assert json.loads(again.out)["made"] == []
    assert json.loads(again.out)["password"] is None
    assert {path: path.read_bytes() for path in kept} == kept
    assert password[1] not in again.out + again.err

    # Another public name needs another certificate, and nothing else.
    bare.configure(public_address="decoys.example.org")
    assert json.loads(bare.process("init", "--json").out)["made"] == ["the master's certificate"]


@pytest.mark.slow
def test_a_master_that_runs(served: Cli) -> None:
    nobody = served("deploy", "--count", "3")
    assert nobody.code == 1
    assert "no active worker" in nobody.err
    assert served("swarm", "check").code == 1

    enrolled = served("swarm", "enroll", "w1", "--json", "--ttl-minutes", "5")
    assert enrolled.code == 0, enrolled
    token = JoinToken.parse(json.loads(enrolled.out)["token"])
    assert token.host == "w1"
    assert served("swarm", "enroll", "w1").code == 5
    assert "w1" in served("swarm", "list").out
    assert json.loads(served("swarm", "list", "--json").out)["hosts"][0]["status"] == "enrolled"

    assert "swarm decommission w1" in served("swarm", "enroll", "w1").err
    assert served("swarm", "decommission", "w1").code == 1, "nobody said yes"
    assert served("swarm", "decommission", "w9", "--yes").code == 4
    assert "refused from now on" in served("swarm", "decommission", "w1", "--yes").out
    assert served("swarm", "enroll", "w1").code == 0

    assert served("teardown", "--yes").code == 4
    assert json.loads(served("deckies", "--json").out) == {"deckies": []}
    assert served("deploy", "--host", "w9").code == 1, "there is still no active worker"

    status = served("status", "--json")
    assert status.code == 69, "the listener is not here"
    parts = json.loads(status.out)
    well = {name for name, part in parts.items() if part["ok"]}
    assert well == {"database", "journal", "evidence", "swarm", "controller", "enrolment", "api"}


@pytest.mark.slow
def test_events_are_shown_and_followed(cli: Cli) -> None:
    feed(cli, 1, 2, 3, text="\x1b[2J", fields={"command": "\x1b]0;owned\x07 [red]x[/red]"})
    shown = cli("events", "--limit", "2")
    assert shown.code == 0, shown
    assert len(shown.out.splitlines()) == 2
    assert "\x1b" not in shown.out
    assert r"\x1b]0;owned\x07 [red]x[/red]" in shown.out
    rows = [json.loads(line) for line in cli("events", "--json").out.splitlines()]
    assert [row["seq"] for row in rows] == [1, 2, 3]
    assert rows[0]["fields"]["command"] == "\x1b]0;owned\x07 [red]x[/red]"
    assert cli("events", "--decky", "nobody").out == ""

    with cli.daemon("events", "--follow", "--json", "--limit", "1") as following:
        following.wait_for_line('"seq": 3')
        feed(cli, 4)
        following.wait_for_line('"seq": 4')


@pytest.mark.slow
def test_serve_is_ready_when_every_part_is(cli: Cli) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(cli.folder / "notify"))
        manager.settimeout(60)
        with cli.daemon("serve", env={"NOTIFY_SOCKET": str(cli.folder / "notify")}) as daemon:
            assert manager.recv(100) == b"READY=1"
            log = daemon.log_path.read_text()
            for part in ("api", "controller", "ingester", "listener"):
                assert f'"event": "{part}.started"' in log
            status = cli("status")
            assert status.code == 0, status
            log = daemon.log_path.read_text()
            assert "refused" not in log, "asking is no attack"
        assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.slow
def test_serve_stops_its_parts_with_it(cli: Cli) -> None:
    with cli.daemon("serve", "--no-listener", "--no-ingester") as daemon:
        daemon.wait_for_port(cli.ports["api"], timeout_secs=60)
        daemon.wait_for_port(cli.ports["controller"], timeout_secs=60)
        assert daemon.stop() == 0
        assert cli("status").code == 69


@pytest.mark.slow
def test_no_part_outlives_a_killed_supervisor(cli: Cli) -> None:
    with cli.daemon("serve", "--no-listener", "--no-ingester", "--no-swarmctl") as daemon:
        daemon.wait_for_port(cli.ports["api"], timeout_secs=60)
        child = int(daemon.wait_for_line(r'"pid": (\d+), "event": "child.started"')[1])
        daemon.kill()
        _wait_until_gone(child)


def _wait_until_gone(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        readable, _, _ = select.select([descriptor], [], [], 20)
        assert readable, f"{pid} still runs"
    finally:
        os.close(descriptor)


@pytest.mark.slow
def test_a_part_alone_ends_at_a_signal(cli: Cli) -> None:
    with cli.daemon("swarmctl") as daemon:
        daemon.wait_for_port(cli.ports["enrolment"], timeout_secs=60)
        daemon._process.send_signal(signal.SIGINT)
        assert daemon.wait() == 0
