"""`swarm check`: agent, updater and log shipper of every worker, asked at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from decnet_core.daemon import Ready
from decnet_core.endpoints import Endpoint, listen
from decnet_core.errors import DecnetError, PartialFailure
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import LiveIdentity
from decnet_master.cli import checks
from decnet_master.settings import MasterSettings
from decnet_master.store import Repair, Store
from decnet_master.store.doorbook import DoorBook
from decnet_master.store.schema import hosts
from decnet_master.swarmctl.messages import CheckReply, HostCheck, LogState
from decnet_updater.http import application
from decnet_updater.http_server import serve as serve_updater
from tests.store.test_shipping import state, worker
from tests.swarm.master import under_way
from tests.swarm.test_fleet import deploy
from tests.swarm.workers import Worker

pytestmark = pytest.mark.slow  # a controller and workers over mutual TLS for each test


async def check(controller: httpx.AsyncClient) -> CheckReply:
    answer = await controller.post("/hosts/check")
    assert answer.status_code == 200, answer.text
    return CheckReply.model_validate(answer.json())


@pytest.fixture
async def workers(controller: httpx.AsyncClient, tmp_path: Path) -> AsyncIterator[tuple[Worker, Worker]]:
    async with AsyncExitStack() as stack:
        both = [await Worker.join(name, controller, tmp_path) for name in ("w1", "w2")]
        for worker in both:
            stack.push_async_callback(worker.stop)
            await worker.start()
        yield both[0], both[1]


@asynccontextmanager
async def updater(worker: Worker, folder: Path, port: int, role: Role = Role.UPDATER) -> AsyncIterator[None]:
    """Serve a worker's updater, with the certificate of a role."""
    identity = LiveIdentity.open(KeyStore(folder / worker.name / "identities"), role, datetime.now(UTC))
    bound, ready = listen(Endpoint("127.0.0.1", port), "updater-address"), Ready(1)
    async with under_way(serve_updater(application(worker.name), bound, identity.server_context(), ready), ready):
        yield


@pytest.fixture
async def updater_ports(store: Store, workers: tuple[Worker, Worker]) -> dict[str, int]:
    """Ports of this test alone, instead of those that the workers are set to."""
    ports = {}
    async with store._database.write() as connection:
        for worker in workers:
            with listen(Endpoint("127.0.0.1", 0), "updater-address") as probe:
                ports[worker.name] = probe.getsockname()[1]
            change = update(hosts).where(hosts.c.name == worker.name)
            await connection.execute(change.values(updater_port=ports[worker.name]))
    return ports


async def test_a_row_tells_of_all_three(
    controller: httpx.AsyncClient,
    store: Store,
    workers: tuple[Worker, Worker],
    updater_ports: dict[str, int],
    tmp_path: Path,
) -> None:
    reply = await deploy(controller, 2)
    async with updater(workers[0], tmp_path, updater_ports["w1"]):
        one, other = (await check(controller)).results
    assert (one.ok, one.version, one.generation, one.deckies) == (True, "0.1.0", reply["generation"], 1)
    assert (one.wanted_generation, one.drift) == (reply["generation"], ())
    assert (one.updater_ok, one.updater_version, one.log) == (True, "0.1.0", LogState.UNKNOWN)
    assert one.certificate_ends_at is not None
    assert one.certificate_ends_at > datetime.now(UTC)
    assert (other.updater_ok, other.well) == (None, True), "no updater was ever seen there"
    assert {host.seen_at is not None for host in await store.hosts.list()} == {True}

    (gone, _) = (await check(controller)).results
    assert (gone.ok, gone.updater_ok, gone.well) == (True, False, False)
    assert "w1" in (gone.updater_error or "")


async def test_another_identity_at_the_updater_s_port_is_no_updater(
    controller: httpx.AsyncClient, workers: tuple[Worker, Worker], updater_ports: dict[str, int], tmp_path: Path
) -> None:
    async with updater(workers[0], tmp_path, updater_ports["w1"], role=Role.AGENT):
        (one, _) = (await check(controller)).results
    assert (one.ok, one.updater_ok) == (True, None)
    assert "updater@w1 was dialled and agent@w1 answered" in (one.updater_error or "")


async def test_what_differs_is_told_with_what_is_done_about_it(
    controller: httpx.AsyncClient, store: Store, workers: tuple[Worker, Worker]
) -> None:
    ended, away = workers
    reply = await deploy(controller, 2)
    (name,) = ended.agent.running
    ended.agent.end(name)
    await away.stop()
    now = datetime.now(UTC)
    await store.repairs.keep(Repair("w1", 3, 3, "no image", now, now))
    one, other = (await check(controller)).results
    assert one.drift == (f"{name} is stopped: its container does not run",)
    assert (one.ok, one.well, one.repair, one.repair_failures) == (True, True, "no image", 3)
    assert (other.ok, other.generation, other.wanted_generation) == (False, None, reply["generation"])
    assert other.advice
    listed = (await controller.get("/hosts")).json()["hosts"]
    assert [host["drift"] for host in listed] == [list(one.drift), []]
    deckies = (await controller.get("/fleet/deckies")).json()["deckies"]
    assert {decky["name"]: decky["phase"] for decky in deckies}[name] == "stopped"


async def test_the_log_is_what_the_listener_reports(
    controller: httpx.AsyncClient, store: Store, settings: MasterSettings, workers: tuple[Worker, Worker]
) -> None:
    del workers
    await deploy(controller, 1, hosts=["w1"])

    async def states() -> list[LogState]:
        return [row.log for row in (await check(controller)).results]

    assert await states() == [LogState.UNKNOWN] * 2
    now = datetime.now(UTC)
    async with await DoorBook.open(settings.database) as book:
        await book.report([], [], state(now, started_at=now - timedelta(hours=1)))
        assert await states() == [LogState.AWAY, LogState.IDLE]
        await store.silences.settle(now + timedelta(seconds=1), timedelta(0))
        assert await states() == [LogState.SILENT, LogState.IDLE]
        later = now + timedelta(seconds=2)
        await book.report([worker(later, host="w1")], [], state(later, started_at=now))
        await store.silences.settle(later, timedelta(hours=1))
        assert await states() == [LogState.SHIPS, LogState.IDLE]


def row(host: str, **more: object) -> HostCheck:
    return HostCheck.model_validate({"host": host, "ok": True, "version": "0.1.0", "generation": 7} | more)


def test_the_exit_code_tells_whether_none_some_or_all_are_well(capsys: pytest.CaptureFixture[str]) -> None:
    well, away = row("w1", updater_ok=True, log="ships"), row("w2", ok=False, error="w2 is away", advice="Look there.")
    checks.show(CheckReply(results=(well, row("w2", drift=["d1 is down"]))), as_json=False)
    said = capsys.readouterr().out
    assert "d1 is down" in said
    assert "mended by itself" in said
    for sick in (away, row("w2", updater_ok=False, updater_error="gone"), row("w2", log="silent")):
        with pytest.raises(PartialFailure, match="1 of 2 workers are well; not w2"):
            checks.show(CheckReply(results=(well, sick)), as_json=False)
    with pytest.raises(DecnetError, match="0 of 1") as refused:
        checks.show(CheckReply(results=(away,)), as_json=True)
    assert not isinstance(refused.value, PartialFailure)
    assert "w2 is away" in capsys.readouterr().out


def test_a_worker_that_lags_behind_is_shown_with_what_it_should_have(capsys: pytest.CaptureFixture[str]) -> None:
    stuck = row("w1", wanted_generation=9, repair="no image", repair_failures=6, drift=["d1 is down"] * 7)
    checks.show(CheckReply(results=(stuck,)), as_json=False)
    said = capsys.readouterr().out
    assert "7 of 9" in said
    assert "and 2 more" in said
    assert "Mending failed 6 times: no image." in said
