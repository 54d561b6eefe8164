"""Artifacts from a worker's quarantine to the operator's file, through a controller and an agent over mutual TLS."""

from __future__ import annotations

import asyncio
import hashlib
import json
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import structlog

from decnet_core.enrolment import JoinToken
from decnet_core.errors import ExitCode
from decnet_master.journal.reader import START, Position
from decnet_master.settings import MasterSettings
from decnet_master.store import Load, NewEvent, Store
from decnet_master.swarmctl import app as swarmctl
from tests.cli.conftest import Cli, Done
from tests.store.samples import NOW, an_event
from tests.swarm.agents import JoinedAgent, joined
from tests.swarm.master import Template, port_of, running

pytestmark = pytest.mark.slow  # a controller and a worker over mutual TLS for each test

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LIE = "d" * 64


class Place:
    """A master with one worker, w1, and the commands of its operator."""

    def __init__(self, cli: Cli, settings: MasterSettings, agent: JoinedAgent) -> None:
        self.cli, self.settings, self.agent = cli, settings, agent

    async def __call__(self, *arguments: str) -> Done:
        return await asyncio.to_thread(self.cli, *arguments)

    def keep(self, sha256: str, content: bytes) -> None:
        """Lay a content down in the worker's quarantine."""
        path = self.agent.settings.quarantine_directory / sha256[:2] / sha256
        path.parent.mkdir(parents=True)
        path.write_bytes(content)

    async def told(self, *digests: str, worker: str = "w1") -> None:
        """Store what the worker told of contents: a file of the first, recordings of the others."""
        events = []
        for number, sha256 in enumerate(digests, 1):
            kept = {"sha256": sha256, "size_bytes": str(len(CONTENT)), "stored_as": f"{sha256[:2]}/{sha256}"}
            file = number == 1
            fields = {**kept, "path": "/tmp/\x1b[2Jx"} if file else {**kept, "terminal": "pts/0"}
            kind = "file.captured" if file else "session.recorded"
            events.append(an_event(number, event_type=kind, src_ip="192.0.2.7", fields=fields))
        load = Load.of([NewEvent(event, worker, NOW) for event in events])
        async with await Store.open(self.settings.database, connections=1) as store:
            await store.ingest.append(load, [], Position(1, 100), START)


@pytest.fixture
async def place(template: Template, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Place]:
    settings = template.copy(tmp_path)
    app = swarmctl.build(settings)
    cli = Cli(tmp_path, {"controller": port_of(app.controller_socket)}, capsys)
    cli.configure()
    async with AsyncExitStack() as stack:
        stack.enter_context(structlog.testing.capture_logs())  # the daemon's, which would stand among a verb's words
        await stack.enter_async_context(running(app))
        enrolled = await asyncio.to_thread(cli, "swarm", "enroll", "w1", "--json")
        token = JoinToken.parse(json.loads(enrolled.out)["token"])
        agent = await stack.enter_async_context(joined(token, tmp_path / "workers"))
        yield Place(cli, settings, agent)


async def test_an_artifact_is_listed_fetched_and_kept(place: Place, tmp_path: Path) -> None:
    place.keep(SHA256, CONTENT)
    await place.told(SHA256, LIE)
    listed = json.loads((await place("artifacts", "list", "--json")).out)["artifacts"]
    assert [(one["sha256"], one["kind"], one["fetched"]) for one in listed] == [
        (LIE, "recording", False),
        (SHA256, "file", False),
    ]
    assert "\x1b" not in (await place("artifacts", "list")).out

    out = tmp_path / "out"
    fetched = await place("artifacts", "fetch", SHA256, "--out", str(out))
    assert fetched.code == 0, fetched
    assert "came from w1" in fetched.out
    kept = place.settings.artifacts_directory / SHA256[:2] / SHA256
    assert out.read_bytes() == kept.read_bytes() == CONTENT
    assert {stat.S_IMODE(path.stat().st_mode) for path in (out, kept)} == {0o600}
    assert not list((place.settings.artifacts_directory / "partial").iterdir())

    # It is the master's now: the worker is not needed any more.
    (place.agent.settings.quarantine_directory / SHA256[:2] / SHA256).unlink()
    again = await place("artifacts", "fetch", SHA256)
    assert again.code == 0, again
    assert "was here already" in again.out
    assert json.loads((await place("artifacts", "list", "--json")).out)["artifacts"][1]["fetched"] is True


async def test_what_is_not_what_its_hash_says_is_not_kept(place: Place, tmp_path: Path) -> None:
    place.keep(LIE, CONTENT)
    await place.told(SHA256, LIE)
    refused = await place("artifacts", "fetch", LIE, "--out", str(tmp_path / "out"))
    assert refused.code == ExitCode.FAILED, refused
    assert "not what its hash says" in refused.err
    assert not (tmp_path / "out").exists()
    assert not list(place.settings.artifacts_directory.glob("??/*"))
    assert not list((place.settings.artifacts_directory / "partial").iterdir())


async def test_what_nobody_keeps_is_said_to_be_so(place: Place) -> None:
    unknown = await place("artifacts", "fetch", SHA256)
    assert unknown.code == ExitCode.NOT_FOUND, unknown
    assert "No worker has told" in unknown.err
    await place.told(SHA256)
    gone = await place("artifacts", "fetch", SHA256)
    assert gone.code == ExitCode.NOT_FOUND, gone
    assert "keeps no such artifact" in gone.err
    assert (await place("artifacts", "fetch", "../../etc/passwd")).code == ExitCode.USAGE
