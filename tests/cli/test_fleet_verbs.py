"""The verbs of fleet and workers, against a controller and agents that run in the test's loop."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import structlog

from decnet_core.enrolment import JoinToken
from decnet_master.cli import progress
from decnet_master.swarmctl import app as swarmctl
from decnet_master.swarmctl.fleet_messages import FleetProgress
from tests.cli.conftest import Cli, Done
from tests.lab.processes import free_port
from tests.swarm.agents import JoinedAgent, joined
from tests.swarm.master import Template, port_of, running

WAIT_SECS = 60.0

FLEET = """\
[[decky]]
name = "vault-01"
host = "w1"

[[group]]
prefix = "files"
count = 2
labels = { site = "hq" }
"""


class Swarm:
    """A controller, agents, and the commands of its operator."""

    def __init__(self, cli: Cli, stack: AsyncExitStack) -> None:
        self.cli = cli
        self.stack = stack

    async def __call__(self, *arguments: str) -> Done:
        """Run a verb, beside the loop that serves it."""
        return await asyncio.to_thread(self.cli, *arguments)

    async def json(self, *arguments: str, code: int = 0) -> Any:
        done = await self(*arguments, "--json")
        assert done.code == code, done
        return json.loads(done.out)

    async def worker(self, name: str, *options: str) -> JoinedAgent:
        token = (await self.json("swarm", "enroll", name, *options))["token"]
        return await self.stack.enter_async_context(joined(JoinToken.parse(token), self.cli.folder / "workers"))

    def file(self, text: str) -> str:
        path = self.cli.folder / "fleet.toml"
        path.write_text(text)
        return str(path)


@pytest.fixture
async def swarm(template: Template, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Swarm]:
    app = swarmctl.build(template.copy(tmp_path))
    cli = Cli(tmp_path, {"controller": port_of(app.controller_socket)}, capsys)
    cli.configure()
    async with AsyncExitStack() as stack:
        stack.enter_context(structlog.testing.capture_logs())  # the daemon's, which would stand among a verb's words
        await stack.enter_async_context(running(app))
        yield Swarm(cli, stack)


@pytest.mark.slow
async def test_a_fleet_file_is_planned_applied_and_pruned(swarm: Swarm) -> None:
    agents = [await swarm.worker("w1"), await swarm.worker("w2", "--label", "site=hq")]
    path = swarm.file(FLEET)
    shown = await swarm("apply", path, "--dry-run")
    assert shown.code == 0, shown
    assert "3 to add, 0 to change, 0 to remove" in shown.out
    plan = await swarm.json("apply", path, "--dry-run")
    assert f"--plan {plan['id']}" in shown.out
    assert all(agent.shards == [] for agent in agents)

    done = await swarm("apply", path, "--plan", plan["id"])
    assert done.code == 0, done
    assert agents[0].running.keys() == {"vault-01"}
    assert agents[1].running.keys() == {"files-01", "files-02"}
    macs = {decky["name"]: decky["mac"] for decky in (await swarm.json("deckies"))["deckies"]}
    assert macs == {step["name"]: step["mac"] for step in plan["steps"]}
    again = await swarm("apply", path)
    assert again.code == 0, again
    assert "Nothing to change" in again.out
    assert "Nothing to change: 3 deckies stay" in (await swarm("apply", path, "--dry-run")).out

    # What is lost is asked about first, and nobody is there to answer.
    smaller = swarm.file(FLEET.replace("count = 2", "count = 1"))
    kept = await swarm("apply", smaller)
    assert kept.code == 0, kept
    assert "not declared: files-02" in kept.out
    asked = await swarm("apply", smaller, "--prune")
    assert asked.code == 1, asked
    assert "Remove 1 deckies (files-02)?" in asked.err
    assert agents[1].running.keys() == {"files-01", "files-02"}
    pruned = await swarm.json("apply", smaller, "--prune", "--yes")
    assert pruned["removed"] == ["files-02"]
    assert agents[1].running.keys() == {"files-01"}

    late = await swarm("apply", path, "--plan", plan["id"])
    assert late.code == 5, "that plan is history"


@pytest.mark.slow
async def test_a_decky_mutates_as_it_was_shown_and_the_file_leaves_it_so(swarm: Swarm) -> None:
    agent = await swarm.worker("w1")
    fixed = '[[decky]]\nname = "vault-01"\n[[decky]]\nname = "vault-02"\n'
    assert (await swarm("apply", swarm.file(fixed))).code == 0
    refused = await swarm("mutate", "vault-02")
    assert refused.code == 5, refused
    assert "vault-02 does not mutate now: fixed" in refused.err
    path = swarm.file(fixed + 'sometimes = ["telnet"]\n')
    told = await swarm("apply", path, "--dry-run")
    assert "What `mutate` may do to them is another: vault-02." in told.out
    sent = len(agent.shards)
    assert (await swarm("apply", path)).code == 0
    assert len(agent.shards) == sent, "no worker is told what may be"

    assert (await swarm("mutate", "nobody")).code == 4
    assert (await swarm("mutate", "--plan", "nonsense")).code == 2
    plan = await swarm.json("mutate", "--dry-run", "--seed", "3")
    assert plan == await swarm.json("mutate", "--dry-run", "--seed", "3")
    (step,) = plan["steps"]
    assert (step["action"], step["name"], step["services"]) == ("change", "vault-02", ["ssh", "telnet"])
    asked = await swarm("mutate", "--seed", "3")
    assert asked.code == 1, asked
    assert "Make 1 anew (vault-02: ssh telnet)?" in asked.err
    assert len(agent.shards) == sent
    before = {decky["name"]: decky for decky in (await swarm.json("deckies"))["deckies"]}
    done = await swarm.json("mutate", "--seed", "3", "--plan", plan["id"], "--yes")
    assert done["changed"] == ["vault-02"]
    after = {decky["name"]: decky for decky in (await swarm.json("deckies"))["deckies"]}
    assert after["vault-01"] == before["vault-01"]
    assert after["vault-02"]["services"] == ["ssh", "telnet"]
    assert after["vault-02"]["phase"] == "running"
    same = ("mac", "ip", "accounts", "host")
    assert [after["vault-02"][key] for key in same] == [before["vault-02"][key] for key in same]
    assert "mutated 20" in (await swarm("deckies")).out
    assert "Nothing to change" in (await swarm("apply", path)).out
    late = await swarm("mutate", "--yes", "--force")
    assert late.code == 5, late
    assert "1 fixed" in late.err
    assert "1 mutated less than 7 days ago" in late.err


@pytest.mark.slow
async def test_a_decky_is_reset_as_it_was_shown(swarm: Swarm) -> None:
    agent = await swarm.worker("w1")
    assert (await swarm("apply", swarm.file('[[decky]]\nname = "vault-01"\n'))).code == 0
    assert (await swarm("reset", "nobody", "--yes")).code == 4
    assert (await swarm("reset")).code == 2
    assert (await swarm("reset", "vault-01", "--plan", "nonsense")).code == 2
    before = {decky["name"]: decky for decky in (await swarm.json("deckies"))["deckies"]}
    plan = await swarm.json("reset", "vault-01", "--dry-run")
    assert [(step["action"], step["name"]) for step in plan["steps"]] == [("change", "vault-01")]
    sent = len(agent.shards)
    asked = await swarm("reset", "vault-01")
    assert (asked.code, "Reset vault-01?" in asked.err, len(agent.shards)) == (1, True, sent)
    done = await swarm.json("reset", "vault-01", "--plan", plan["id"], "--yes")
    assert done["changed"] == ["vault-01"]
    assert [decky.resets for decky in agent.shards[-1].deckies] == [1]
    after = {decky["name"]: decky for decky in (await swarm.json("deckies"))["deckies"]}
    same = ("mac", "ip", "accounts", "host", "services")
    assert [after["vault-01"][key] for key in same] == [before["vault-01"][key] for key in same]
    assert (await swarm("reset", "vault-01", "--plan", plan["id"], "--yes")).code == 5, "that plan is history"


@pytest.mark.slow
async def test_faults_of_a_file_are_told_with_their_lines(swarm: Swarm) -> None:
    path = swarm.file(FLEET.replace("count", "cuont"))
    done = await swarm("apply", path)
    assert done.code == 2, done
    assert done.err.splitlines() == [
        f"{path}:5: [[group]] needs the key 'count'",
        f"{path}:7: unknown key 'cuont'; did you mean 'count'?",
    ]
    assert done.out == ""
    missing = await swarm("apply", path + ".missing")
    assert missing.code == 78, missing
    assert "Cannot read" in missing.err
    assert (await swarm("apply", swarm.file(FLEET), "--plan", "nonsense")).code == 2


@pytest.mark.slow
async def test_one_worker_that_fails_is_a_3_and_all_are_a_1(swarm: Swarm) -> None:
    first, second = await swarm.worker("w1"), await swarm.worker("w2", "--label", "site=hq")
    second.broken.add("files-01")
    some = await swarm("apply", swarm.file(FLEET))
    assert some.code == 3, some
    assert "1 of 2 workers are as they should be; not w2" in some.err
    assert "files-01: the image is missing" in some.out
    for query, names in (
        (("--state", "failed"), ["files-01"]),
        (("--host", "w1"), ["vault-01"]),
        (("--host", "w2", "--state", "running"), ["files-02"]),
        (("--state", "unknown"), []),
    ):
        found = (await swarm.json("deckies", *query))["deckies"]
        assert [decky["name"] for decky in found] == names

    dry = await swarm("deploy", "--count", "0", "--dry-run")
    assert "sent their part again: w2" in dry.out
    again = await swarm("apply", swarm.file(FLEET))
    assert again.code == 1, "only w2 was concerned, and it failed"
    second.broken.clear()
    mended = await swarm("apply", swarm.file(FLEET))
    assert mended.code == 0, mended
    assert len(first.shards) == 1


@pytest.mark.slow
async def test_a_deploy_does_what_its_dry_run_showed(swarm: Swarm) -> None:
    agent = await swarm.worker("w1", "--label", "site=hq")
    wanted = ("deploy", "--count", "2", "--label", "site=hq")
    plan = await swarm.json(*wanted, "--dry-run")
    reply = await swarm.json(*wanted)
    assert list(reply["added"]) == [step["name"] for step in plan["steps"]]
    assert agent.running.keys() == set(reply["added"])
    assert (await swarm(*wanted, "--plan", plan["id"])).code == 5
    nobody = await swarm("deploy", "--label", "site=lab")
    assert nobody.code == 4, nobody
    assert "site=lab" in nobody.err
    assert (await swarm("deploy", "--label", "no label")).code == 2
    quiet = await swarm("deploy", "--count", "0")
    assert quiet.code == 0, quiet
    assert "Nothing to change" in quiet.out


@pytest.mark.slow
async def test_workers_are_labelled_limited_and_listed(swarm: Swarm) -> None:
    await swarm.worker("w1", "--label", "site=hq")
    await swarm.json("swarm", "enroll", "w2")
    await swarm.json("swarm", "enroll", "w3", "--out-dir", str(swarm.cli.folder / "w3"), "--label", "site=far")
    host = await swarm.json("swarm", "label", "w1", "site=lab", "rack=7")
    assert host["labels"] == {"site": "lab", "rack": "7"}
    assert "rack=7 site=lab" in (await swarm("swarm", "list")).out
    told = await swarm("swarm", "label", "w1", "--remove", "rack")
    assert "site=lab" in told.out
    assert "rack" not in told.out
    assert (await swarm.json("swarm", "set", "w1", "--capacity", "1"))["capacity"] == 1
    full = await swarm("deploy", "--count", "2", "--host", "w1")
    assert full.code == 5, full
    assert "have room for 1" in full.err
    assert (await swarm.json("swarm", "set", "w1", "--capacity", "any"))["capacity"] is None
    for status, names in (("active", ["w1", "w3"]), ("enrolled", ["w2"]), ("decommissioned", [])):
        found = (await swarm.json("swarm", "list", "--status", status))["hosts"]
        assert [host["name"] for host in found] == names
    assert {host["name"]: host["labels"] for host in (await swarm.json("swarm", "list"))["hosts"]} == {
        "w1": {"site": "lab"},
        "w2": {},
        "w3": {"site": "far"},
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("swarm", "label", "w1"),
        ("swarm", "label", "w1", "nonsense"),
        ("swarm", "label", "Not_a_label", "site=hq"),
        ("swarm", "label", "w1", "--remove", "No"),
        ("swarm", "set", "w1"),
        ("swarm", "set", "w1", "--capacity", "-1"),
        ("swarm", "set", "w1", "--capacity", "1001"),
        ("swarm", "set", "w1", "--capacity", "many"),
        ("swarm", "list", "--status", "lost"),
        ("swarm", "enroll", "w1", "--label", "Site=hq"),
        ("deckies", "--state", "lost"),
        ("deckies", "--host", "Not_a_label"),
        ("deploy", "--plan", "nonsense"),
    ],
)
def test_usage_errors_end_with_2(bare: Cli, arguments: tuple[str, ...]) -> None:
    done = bare(*arguments)
    assert done.code == 2, done
    assert "Usage:" in done.err


@pytest.mark.slow
async def test_the_controller_is_found_by_its_url(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{swarm.cli.ports['controller']}"
    swarm.cli.ports["controller"] = free_port()
    swarm.cli.configure()
    assert (await swarm("swarm", "list")).code == 69
    for verb in (("swarm", "list"), ("swarm", "tokens", "list"), ("pki", "status"), ("deckies",)):
        assert (await swarm(*verb, "--url", url)).code == 0, verb
    monkeypatch.setenv("DECNET_SWARMCTL_URL", url + "/")
    assert (await swarm("swarm", "list")).code == 0
    away = await swarm("swarm", "list", "--url", f"http://localhost:{swarm.cli.ports['controller']}")
    assert away.code == 69, "what is said on the command line wins"
    monkeypatch.delenv("DECNET_SWARMCTL_URL")
    swarm.cli.configure(swarmctl_url=url)
    assert (await swarm("deckies")).code == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1:8770",
        "https://user:s3cret@127.0.0.1:8772",
        "https://",
        "http://decnet.example.org:8770",
        "http://user:s3cret@127.0.0.1:8770",
        "http://127.0.0.1:8770/path",
        "127.0.0.1:8770",
        "http://[::1",
        "nonsense",
    ],
)
def test_the_secret_is_sent_to_loopback_alone(cli: Cli, url: str) -> None:
    done = cli("swarm", "list", "--url", url)
    assert done.code == 78, done
    assert "loopback" in done.err
    assert "s3cret" not in done.err


def test_the_secret_is_no_operators_certificate(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(cli.folder))
    done = cli("swarm", "list", "--url", "https://127.0.0.1:8772")
    assert done.code == 77, done
    assert "has no operator identity" in done.err
    assert "decnet-master operator request" in done.err


def test_progress_in_words() -> None:
    assert progress.words(FleetProgress(workers=3, done=0, failed=0)) == "0 of 3 workers done"
    assert progress.words(FleetProgress(workers=3, done=2, failed=1)) == "2 of 3 workers done, 1 of them failed"


def test_nothing_is_told_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown() as told:
        assert told is None
    assert capsys.readouterr().err == ""


@pytest.mark.slow
async def test_progress_is_shown_on_a_terminal(swarm: Swarm) -> None:
    agent = await swarm.worker("w1")
    agent.release.clear()
    ours, theirs = pty.openpty()
    shown = bytearray()
    seen = asyncio.Event()

    def read() -> None:
        try:
            shown.extend(os.read(ours, 4096))
        except OSError:  # the other end is closed
            asyncio.get_running_loop().remove_reader(ours)
        if b"0 of 1 workers done" in shown:
            seen.set()

    asyncio.get_running_loop().add_reader(ours, read)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "decnet_master", "deploy", "--json"),
            env={**swarm.cli.environment, "TERM": "xterm"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=theirs,
        )
        async with asyncio.timeout(WAIT_SECS):
            await seen.wait()
            agent.release.set()
            out, _ = await process.communicate()
        assert process.returncode == 0
        assert len(json.loads(out)["added"]) == 1, "what is piped is the result alone"
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
        os.close(theirs)
