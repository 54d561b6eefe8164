"""The controller's own doing: heartbeats, and workers that become as they shall be without a command."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import httpx
import pytest
from structlog.testing import capture_logs

from decnet_core.fleet import DeckyPhase
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.live import LiveIdentity
from decnet_master.settings import MasterSettings
from decnet_master.store import Repair, Store
from decnet_master.store.repairs import GIVES_UP_AFTER
from decnet_master.swarmctl import dispatch
from decnet_master.swarmctl.agent_client import AgentClient
from decnet_master.swarmctl.currency import CurrentCertificates
from decnet_master.swarmctl.dispatch import Dispatcher
from decnet_master.swarmctl.heartbeat import Heart
from decnet_master.swarmctl.reconciler import Reconciler
from tests.lab.processes import Daemon, free_port
from tests.swarm.master import Template, controller_client
from tests.swarm.workers import CountingAgent, Worker, until

pytestmark = pytest.mark.slow  # a controller and workers over mutual TLS for each test

EVERY_SECS = 0.1

Join = Callable[[str], Awaitable[Worker]]


@pytest.fixture
def every_secs() -> float:
    return EVERY_SECS


@pytest.fixture
def settings(template: Template, tmp_path: Path, every_secs: float) -> MasterSettings:
    return template.copy(tmp_path).model_copy(update={"heartbeat_secs": every_secs})


@pytest.fixture
async def join(controller: httpx.AsyncClient, tmp_path: Path) -> AsyncIterator[Join]:
    """Makes workers that serve until the test ends."""
    async with AsyncExitStack() as stack:

        async def one(name: str) -> Worker:
            worker = await Worker.join(name, controller, tmp_path / "workers")
            stack.push_async_callback(worker.stop)
            await worker.start()
            return worker

        yield one


async def deploy(controller: httpx.AsyncClient, count: int, **more: object) -> dict:
    answer = await controller.post("/fleet/deploy", json={"count": count, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def phases(store: Store) -> set[DeckyPhase | None]:
    return {decky.phase for decky in await store.fleet.current()}


async def all_run(store: Store, worker: Worker, count: int) -> bool:
    return len(worker.agent.running) == count and await phases(store) == {DeckyPhase.RUNNING}


async def placed(store: Store, count: int) -> bool:
    return len(await store.fleet.current()) == count


async def test_a_worker_that_was_away_converges_when_it_is_back(
    controller: httpx.AsyncClient, store: Store, join: Join
) -> None:
    here, away = await join("w1"), await join("w2")
    await deploy(controller, 2)
    await away.stop()
    reply = await deploy(controller, 4)
    assert {row["host"]: row["ok"] for row in reply["results"]} == {"w1": True, "w2": False}
    assert (len(here.agent.running), len(away.agent.running)) == (3, 1)
    await away.start()
    await until(lambda: all_run(store, away, 3))
    assert away.agent.generation == reply["generation"]
    assert len(here.agent.shards) == 2, "who is as it shall be is left alone"


async def test_a_teardown_reaches_a_worker_that_was_away(
    controller: httpx.AsyncClient, store: Store, join: Join
) -> None:
    worker = await join("w1")
    await deploy(controller, 2)
    await worker.stop()
    answer = await controller.post("/fleet/teardown", json={})
    assert not answer.json()["results"][0]["ok"]
    assert len(await store.fleet.lingering()) == 2
    await worker.start()

    async def gone() -> bool:
        return not worker.agent.running and await store.fleet.lingering() == []

    await until(gone)


async def test_a_decky_that_ended_behind_our_back_is_mended(
    controller: httpx.AsyncClient, store: Store, join: Join
) -> None:
    worker = await join("w1")
    (name, *_) = (await deploy(controller, 2))["added"]
    worker.agent.end(name)
    await until(lambda: all_run(store, worker, 2))
    assert len(worker.agent.shards) == 2


async def test_a_worker_that_forgot_everything_is_told_again(
    controller: httpx.AsyncClient, store: Store, join: Join
) -> None:
    worker = await join("w1")
    await deploy(controller, 2)
    await worker.stop()
    worker.agent = CountingAgent("w1")
    await worker.start()
    await until(lambda: all_run(store, worker, 2))


@pytest.mark.slow  # some dozen heartbeats
async def test_who_is_decommissioned_is_not_spoken_to_any_more(
    controller: httpx.AsyncClient, store: Store, join: Join
) -> None:
    here, gone = await join("w1"), await join("w2")
    await deploy(controller, 2)
    gone.agent.end(next(iter(gone.agent.running)))
    answer = await controller.post("/hosts/w2/decommission")
    assert answer.status_code == 200
    others = here.agent.statuses
    await until(lambda: here.agent.statuses > others + 2)  # a question may have been on its way
    asked, sent = gone.agent.statuses, len(gone.agent.shards)
    await until(lambda: here.agent.statuses > others + 5)
    assert (gone.agent.statuses, len(gone.agent.shards)) == (asked, sent)
    assert (await store.heartbeats.list()).keys() == {"w1"}


async def test_a_command_during_a_repair_wins(
    controller: httpx.AsyncClient, store: Store, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "BUSY_SECS", 0.05)
    worker = await join("w1")
    (name,) = (await deploy(controller, 1))["added"]
    worker.agent.asked.clear()
    worker.agent.release.clear()
    worker.agent.end(name)
    await until(worker.agent.asked.is_set)  # the repair is under way, and stands
    deploying = asyncio.create_task(deploy(controller, 1))
    await until(lambda: placed(store, 2))
    worker.agent.release.set()
    reply = await deploying
    assert [row["ok"] for row in reply["results"]] == [True], "it waits for what nobody asked for"
    await until(lambda: all_run(store, worker, 2))
    generations = [shard.generation for shard in worker.agent.shards]
    assert generations == sorted(generations)
    assert worker.agent.generation == reply["generation"]
    assert await store.repairs.list() == {}


async def test_going_away_and_coming_back_are_told(controller: httpx.AsyncClient, store: Store, join: Join) -> None:
    worker = await join("w1")
    await deploy(controller, 1)
    await until(lambda: worker.agent.statuses > 1)
    await worker.stop()

    async def is_away() -> bool:
        return (await store.heartbeats.list())["w1"].unreachable_since is not None

    await until(is_away)
    assert "cannot be reached" in ((await store.heartbeats.list())["w1"].error or "")
    await worker.start()

    async def is_back() -> bool:
        return not await is_away()

    await until(is_back)
    assert [row["event_type"] for row in await store.events.page()] == ["worker.unreachable", "worker.reached"]


@pytest.mark.slow  # some dozen heartbeats
@pytest.mark.parametrize("every_secs", [3600.0])  # the controller leaves it to the one that is made here
async def test_what_cannot_be_mended_is_given_up_loudly_and_mended_all_the_same(
    controller: httpx.AsyncClient, store: Store, settings: MasterSettings, join: Join
) -> None:
    worker = await join("w1")
    worker.agent.broken.add("till-01")
    await deploy(controller, 2, name_prefix="till")
    async with heart(store, settings):
        with capture_logs() as logged:

            async def is_given_up() -> bool:
                repairs = await store.repairs.list()
                return "w1" in repairs and repairs["w1"].alike > GIVES_UP_AFTER

            await until(is_given_up)
        told = [line["event"] for line in logged]
        assert told.count("repair.given_up") == 1, "it is said once, however often it is tried"
        assert told.count("repair.failed") > GIVES_UP_AFTER
        repair = (await store.repairs.list())["w1"]
        assert "till-01: the image is missing" in repair.error
        assert (await store.heartbeats.list())["w1"].drift == ("till-01 is stopped: its container does not run",)
        assert await phases(store) == {DeckyPhase.RUNNING, DeckyPhase.FAILED}

        worker.agent.broken.clear()

        async def is_mended() -> bool:
            return await store.repairs.list() == {} and await all_run(store, worker, 2)

        await until(is_mended)


@pytest.mark.slow  # some dozen heartbeats
@pytest.mark.parametrize("every_secs", [3600.0])
async def test_what_takes_its_shard_and_differs_all_the_same_is_sent_it_ever_more_rarely(
    controller: httpx.AsyncClient, store: Store, settings: MasterSettings, join: Join
) -> None:
    worker = await join("w1")
    (name,) = (await deploy(controller, 1))["added"]
    worker.agent.dies = name
    worker.agent.end(name)
    async with heart(store, settings):

        async def has_failed() -> bool:
            repairs = await store.repairs.list()
            return "w1" in repairs and repairs["w1"].failures >= 3

        await until(has_failed)
        assert (await store.repairs.list())["w1"].error.startswith("It took its shard, and ")


@pytest.mark.slow  # some dozen heartbeats
@pytest.mark.parametrize("every_secs", [3600.0])
async def test_a_controller_that_starts_again_knows_what_it_could_not_mend(
    controller: httpx.AsyncClient, store: Store, settings: MasterSettings, join: Join
) -> None:
    worker = await join("w1")
    await deploy(controller, 1)
    now = datetime.now(UTC)
    await store.repairs.keep(Repair("w1", 7, 4, "no image", now, now + timedelta(hours=1)))
    await store.repairs.keep(Repair("w9", 7, 4, "no image", now, now + timedelta(hours=1)))
    worker.agent.end(next(iter(worker.agent.running)))
    sent = len(worker.agent.shards)
    async with heart(store, settings):
        await until(lambda: worker.agent.statuses > 8)
        assert len(worker.agent.shards) == sent, "it waits as long as the one before it wanted to"
        assert (await store.repairs.list()).keys() == {"w1"}, "of workers that are none it knows nothing"
        # It was away, and is back: that is reason enough to try.
        await worker.stop()

        async def is_away() -> bool:
            return (await store.heartbeats.list())["w1"].unreachable_since is not None

        await until(is_away)
        await worker.start()
        await until(lambda: all_run(store, worker, 1))


@pytest.mark.slow  # kills and awaits a daemon
async def test_a_controller_that_is_killed_in_a_deploy_goes_on_when_it_is_back(
    template: Template, tmp_path: Path
) -> None:
    settings, port = template.copy(tmp_path), free_port()
    config = tmp_path / "decnet.ini"
    lines = ["[decnet]", f"data-directory = {settings.data_directory}", "[master]", "heartbeat-secs = 1"]
    lines += [f"controller-address = 127.0.0.1:{port}", f"enrolment-address = 127.0.0.1:{free_port()}"]
    config.write_text("\n".join(lines))
    argv = [sys.executable, "-m", "decnet_master", "swarmctl"]
    daemon = Daemon(argv, log_path=tmp_path / "swarmctl.log", env={"DECNET_CONFIG": str(config)})
    async with AsyncExitStack() as stack:
        stack.enter_context(daemon)
        await asyncio.to_thread(daemon.wait_for_port, port, timeout_secs=60)
        controller = await stack.enter_async_context(controller_client(settings, port))
        store = await stack.enter_async_context(await Store.open(settings.database))
        workers = [await Worker.join(name, controller, tmp_path / "workers") for name in ("w1", "w2")]
        for worker in workers:
            stack.push_async_callback(worker.stop)
            await worker.start()
        workers[0].agent.release.clear()
        deploying = asyncio.create_task(controller.post("/fleet/deploy", json={"count": 4}))
        await until(workers[0].agent.asked.is_set)
        await asyncio.to_thread(daemon.kill)
        with pytest.raises(httpx.HTTPError):
            await deploying
        workers[0].agent.release.set()
        await workers[1].stop()  # what this one was sent is lost, too
        workers[1].agent = CountingAgent("w2")
        await workers[1].start()
        daemon.start()

        async def converged() -> bool:
            return all([await all_run(store, worker, 2) for worker in workers])

        await until(converged)


@asynccontextmanager
async def heart(store: Store, settings: MasterSettings) -> AsyncIterator[None]:
    """A heart and a reconciler of their own, with short pauses."""
    identity = LiveIdentity.open(KeyStore(settings.identities_directory), Role.MASTER, datetime.now(UTC))
    dispatcher = Dispatcher(AgentClient(identity.client_context, CurrentCertificates(store)), store)
    reconciler = Reconciler(store, dispatcher, Random(1), first_pause_secs=0.02, longest_pause_secs=0.1)
    beats = Heart(store, dispatcher, reconciler, 0.1, Random(2))
    task = asyncio.create_task(beats.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await reconciler.close()
        await dispatcher.close()
