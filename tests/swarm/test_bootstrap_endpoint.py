"""What bare hosts are given, over real TLS, by the very code that the line runs on them."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from decnet_agent import joining
from decnet_agent.master_client import ask_to_be_seen
from decnet_agent.settings import AgentSettings
from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import JoinToken
from decnet_core.errors import ExitCode, TrustError
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import client_context, unverified_context
from decnet_master.bootstrap.bundles import Bundles
from decnet_master.bootstrap.line import make_line, script, script_sha256
from decnet_master.bootstrap.routes import SCRIPTS
from decnet_master.bootstrap.worker_fetch import Master, Stop, Token
from decnet_master.enrolment.tokens import TokenMint
from decnet_master.settings import MasterSettings
from decnet_master.store import Store, TokenState
from decnet_master.swarmctl.app import App
from tests.swarm.bundled import VERSION, fill
from tests.swarm.master import Template, port_of

pytestmark = pytest.mark.slow  # a controller and workers over mutual TLS for each test

PARTS = ("agent", "logship", "updater")


@pytest.fixture
def bundles(settings: MasterSettings, tmp_path: Path) -> Bundles:
    bundles = Bundles(settings.bundles_directory)
    bundles.build(fill(tmp_path / "house"), VERSION)
    return bundles


@pytest.fixture
def issue(store: Store, swarm: App, template: Template):
    """Make a token for a host."""
    mint = TokenMint(store, lambda: template.pin, lambda: Endpoint("127.0.0.1", port_of(swarm.enrolment_socket)))

    async def issue(host: str = "w1", lifetime: timedelta = timedelta(minutes=5)) -> JoinToken:
        return await mint.issue(host, lifetime, datetime.now(UTC))

    return issue


async def index_of(token: JoinToken) -> tuple[Master, dict]:
    def ask() -> tuple[Master, dict]:
        master = Master(Token(token.encode()))
        return master, master.index(PARTS)

    return await asyncio.to_thread(ask)


async def refused(token: JoinToken) -> Stop:
    with pytest.raises(Stop) as stopped:
        await index_of(token)
    return stopped.value


async def test_a_host_with_an_open_token_gets_every_wheel_and_the_token_stays_open(issue, bundles, store, tmp_path):
    token = await issue()
    master, index = await index_of(token)
    assert index["version"] == VERSION
    assert index["wheels"][0]["project"] == "pip"
    for wheel in index["wheels"]:
        await asyncio.to_thread(master.fetch, wheel, tmp_path)
        assert (tmp_path / wheel["file"]).read_bytes() == bundles.path(wheel["sha256"]).read_bytes()
    (stored,) = await store.tokens.list(datetime.now(UTC))
    assert stored.state is TokenState.OPEN


async def test_a_download_goes_on_where_it_was_cut(issue, bundles, tmp_path):
    master, index = await index_of(await issue())
    wheel = max(index["wheels"], key=lambda wheel: wheel["bytes"])
    whole = bundles.path(wheel["sha256"]).read_bytes()
    # The master's own copy lacks its first half now: what comes must be the second.
    bundles.path(wheel["sha256"]).write_bytes(bytes(100_000) + whole[100_000:])
    (tmp_path / f"{wheel['sha256']}.part").write_bytes(whole[:100_000])
    await asyncio.to_thread(master.fetch, wheel, tmp_path)
    assert (tmp_path / wheel["file"]).read_bytes() == whole


@asynccontextmanager
async def cutting(port: int, after_bytes: int) -> AsyncIterator[int]:
    """A way to a port on which every connection ends once so many bytes came back; give its own port."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)

        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, left: int) -> None:
            while left > 0 and (piece := await source.read(min(left, 4096))):
                sink.write(piece)
                await sink.drain()
                left -= len(piece)

        both = [
            asyncio.create_task(carry(reader, back, 1 << 30)),
            asyncio.create_task(carry(there, writer, after_bytes)),
        ]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        writer.close()
        back.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        yield port_of(server.sockets[0])


@pytest.mark.usefixtures("bundles")
async def test_a_download_outlives_connections_that_are_cut(issue, swarm, tmp_path):
    async with cutting(port_of(swarm.enrolment_socket), 90_000) as port:
        token = await issue()
        master, index = await index_of(token.model_copy(update={"address": f"127.0.0.1:{port}"}))
        wheel = max(index["wheels"], key=lambda wheel: wheel["bytes"])
        assert wheel["bytes"] > 2 * 90_000
        await asyncio.to_thread(master.fetch, wheel, tmp_path)
    assert (tmp_path / wheel["file"]).stat().st_size == wheel["bytes"]


@pytest.mark.usefixtures("bundles")
async def test_a_master_that_sends_more_than_it_said_is_given_up(issue, tmp_path):
    master, index = await index_of(await issue())
    wheel = {**max(index["wheels"], key=lambda wheel: wheel["bytes"]), "bytes": 3}
    with pytest.raises(Stop, match="does not come through") as stopped:
        await asyncio.to_thread(master.fetch, wheel, tmp_path)
    assert stopped.value.code == ExitCode.UNAVAILABLE
    assert sum(path.stat().st_size for path in tmp_path.glob("*.part")) <= 3


async def test_a_wheel_that_was_changed_is_refused_and_not_kept(issue, bundles, tmp_path):
    master, index = await index_of(await issue())
    wheel = index["wheels"][1]
    path = bundles.path(wheel["sha256"])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Stop, match="another SHA-256") as stopped:
        await asyncio.to_thread(master.fetch, wheel, tmp_path)
    assert stopped.value.code == ExitCode.TRUST
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob("*.whl"))


@pytest.mark.usefixtures("bundles")
async def test_another_ca_is_refused_before_the_secret_is_shown(issue):
    token = await issue()
    stop = await refused(token.model_copy(update={"pin": "0" * 64}))
    assert stop.code == ExitCode.TRUST
    assert "another fingerprint" in stop.message


@pytest.mark.usefixtures("bundles")
async def test_a_token_that_is_not_open_gets_nothing(issue, store, tmp_path):
    revoked, ended, used, unknown = [await issue(f"w{n}") for n in range(4)]
    await store.tokens.revoke(revoked.id, datetime.now(UTC))
    ended = await issue("w9", timedelta(seconds=0))
    settings = AgentSettings.load(data_directory=tmp_path / "worker")
    await asyncio.to_thread(joining.join, settings, used)
    unknown = unknown.model_copy(update={"secret": "x" * 43})
    tokens = {"was revoked": revoked, "has ended": ended, "was used already": used, "is not known": unknown}
    for words, token in tokens.items():
        stop = await refused(token)
        assert (stop.code, words in stop.message) == (ExitCode.TRUST, True), stop.message


@pytest.mark.usefixtures("swarm")
async def test_a_master_without_wheels_says_so(issue, controller):
    stop = await refused(await issue())
    assert stop.code == ExitCode.NOT_FOUND
    assert "no bundle" in stop.message
    assert (await controller.get("/bootstrap")).status_code == 404


async def test_who_shows_no_token_gets_the_script_alone_and_not_without_end(swarm, bundles):
    async with httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port_of(swarm.enrolment_socket)}", verify=unverified_context(), trust_env=False
    ) as stranger:
        answers = [await stranger.get("/bootstrap.py") for _ in range(SCRIPTS + 1)]
        assert [answer.status_code for answer in answers] == [200] * SCRIPTS + [429]
        assert answers[0].content == script()
        query = "/bundle?python=11&machine=x86_64&glibc=2.36&part=agent"
        wheel = bundles.load(VERSION).wheels[0].sha256
        for path in (query, f"/wheels/{wheel}"):
            for shown in ("", "Bearer x", f"Bearer {'0' * 16}.{'x' * 43}"):
                answer = await stranger.get(path, headers={"authorization": shown})
                assert answer.status_code in (401, 403), (path, shown)


@pytest.mark.usefixtures("swarm")
async def test_only_an_agent_is_told_whether_it_is_seen(issue, tmp_path):
    token = await issue()
    settings = AgentSettings.load(data_directory=tmp_path / "worker", agent_address="127.0.0.1:9")
    await asyncio.to_thread(joining.join, settings, token)
    keys = KeyStore(settings.identities_directory)
    master = Endpoint.parse(token.address)

    def ask(role: Role):
        files = keys.load(role, datetime.now(UTC)).files
        return ask_to_be_seen(master, client_context(files, files.ca))

    reply = await asyncio.to_thread(ask, Role.AGENT)
    assert not reply.ok
    assert "cannot be reached" in reply.error
    with pytest.raises(TrustError, match="no agent of this master"):
        await asyncio.to_thread(ask, Role.LOGSHIP)


async def _run(line: str) -> tuple[int, str]:
    done = await asyncio.to_thread(
        subprocess.run,
        ["sh", "-c", line],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.usefixtures("swarm")
async def test_the_line_runs_the_script_that_it_names_and_no_other(issue):
    """With --help alone: all else would make this very host a worker."""
    token = await issue()
    code, said = await _run(make_line(token, script_sha256(), ["--help"]).whole)
    assert (code, "--without-updater" in said) == (0, True), said
    code, said = await _run(make_line(token, "0" * 64, ["--help"]).whole)
    assert (code, "is not the master that made this line" in said) == (ExitCode.TRUST, True), said


async def test_the_line_says_when_nobody_answers(issue):
    token = (await issue()).model_copy(update={"address": "127.0.0.1:9"})
    code, said = await _run(make_line(token, script_sha256(), ["--help"]).whole)
    assert (code, said.startswith("error: the master does not answer at 127.0.0.1:9: ")) == (ExitCode.UNAVAILABLE, True)


async def test_the_token_stands_in_no_argument_of_the_line(issue):
    line = make_line(await issue(), script_sha256(), ["--without-tap"])
    assert line.token not in line.command
    assert line.whole.startswith("printf %s ")  # built into every shell
    assert "\n" not in line.whole
    assert line.whole.count("'") == 4


def test_the_script_needs_the_standard_library_alone_and_an_old_python_can_read_it():
    tree = ast.parse(script(), feature_version=(3, 8))
    named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in named} - {"__future__"} <= sys.stdlib_module_names
    assert len(named) > 15
