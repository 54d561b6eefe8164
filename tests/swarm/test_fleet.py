"""Deploying through the controller to agents over mutual TLS."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from decnet_agent import joining
from decnet_agent.settings import AgentSettings
from decnet_core.enrolment import JoinToken
from decnet_core.fleet import DeckyPhase, DeckyState, ShardReport
from decnet_core.identity import Role
from decnet_master.store import Store
from decnet_master.swarmctl import dispatch
from tests.swarm.agents import JoinedAgent, joined


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


async def worker(
    name: str, controller: httpx.AsyncClient, stack: AsyncExitStack, folder: Path, role: Role = Role.AGENT
) -> JoinedAgent:
    answer = await controller.post("/hosts", json={"name": name})
    token = JoinToken.parse(answer.json()["token"])
    return await stack.enter_async_context(joined(token, folder, role=role))


async def deploy(controller: httpx.AsyncClient, count: int, **more: object) -> dict:
    answer = await controller.post("/fleet/deploy", json={"count": count, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_fleet_is_spread_sent_and_shown(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path
) -> None:
    agents = [await worker(name, controller, stack, tmp_path) for name in ("w1", "w2")]
    reply = await deploy(controller, 5)
    assert sorted(len(agent.running) for agent in agents) == [2, 3]
    assert [row["ok"] for row in reply["results"]] == [True, True]
    assert set(reply["added"]) == agents[0].running.keys() | agents[1].running.keys()

    more = await deploy(controller, 1)
    assert more["generation"] > reply["generation"]
    assert sorted(len(agent.running) for agent in agents) == [3, 3]
    assert len(agents[0].shards) + len(agents[1].shards) == 3, "only the worker that got the new one was told"

    shown = (await controller.get("/fleet/deckies")).json()["deckies"]
    assert len(shown) == 6
    assert all(decky["phase"] == "running" and len(decky["accounts"]) >= 2 for decky in shown)
    hosts = (await controller.get("/hosts")).json()["hosts"]
    assert all(host["seen_at"] for host in hosts)


async def test_teardown_of_some_and_of_all(
    controller: httpx.AsyncClient, store: Store, stack: AsyncExitStack, tmp_path: Path
) -> None:
    agent = await worker("w1", controller, stack, tmp_path)
    added = (await deploy(controller, 3))["added"]
    reply = (await controller.post("/fleet/teardown", json={"names": added[:1]})).json()
    assert reply["removed"] == added[:1]
    assert set(agent.running) == set(added[1:])
    assert await store.fleet.lingering() == []
    await controller.post("/fleet/teardown", json={})
    assert agent.running == {}
    nothing = await controller.post("/fleet/teardown", json={})
    assert nothing.status_code == 404


async def test_a_worker_that_is_away_fails_alone_and_a_later_deploy_converges(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path
) -> None:
    there = await worker("w1", controller, stack, tmp_path)
    async with AsyncExitStack() as short:
        away = await worker("w2", controller, short, tmp_path)
        await deploy(controller, 2)
    reply = await deploy(controller, 2)
    by_host = {row["host"]: row for row in reply["results"]}
    assert by_host["w1"]["ok"]
    assert not by_host["w2"]["ok"]
    assert "w2" in by_host["w2"]["error"]
    assert by_host["w2"]["advice"]
    assert len(there.running) == 2
    assert len(away.running) == 1

    again = await deploy(controller, 0)
    assert [row["host"] for row in again["results"]] == ["w2"], "what is as it should be is left alone"


async def test_a_decky_that_does_not_run_is_told_and_sent_again(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path
) -> None:
    agent = await worker("w1", controller, stack, tmp_path)
    agent.broken.add("till-01")
    reply = await deploy(controller, 2, name_prefix="till")
    (row,) = reply["results"]
    assert not row["ok"]
    assert "till-01: the image is missing" in row["error"]
    agent.broken.clear()
    again = await deploy(controller, 0)
    assert [row["ok"] for row in again["results"]] == [True]
    assert again["added"] == []


async def test_a_worker_that_is_busy_keeps_nobody_else_waiting(
    controller: httpx.AsyncClient, store: Store, stack: AsyncExitStack, tmp_path: Path
) -> None:
    slow = await worker("w1", controller, stack, tmp_path)
    slow.release.clear()
    first = asyncio.create_task(deploy(controller, 1, hosts=["w1"]))
    async with asyncio.timeout(10):
        await slow.asked.wait()
    quick = await worker("w2", controller, stack, tmp_path)
    async with asyncio.timeout(4):  # well before it would have given up waiting for w1
        second = await deploy(controller, 2, hosts=["w2"])
    assert [(row["host"], row["ok"]) for row in second["results"]] == [("w2", True)]
    assert len(quick.running) == 2
    slow.release.set()
    assert (await first)["results"][0]["ok"]
    # Who was busy is sent the newest by itself.
    async with asyncio.timeout(60):
        while len(slow.shards) < 2:
            await asyncio.sleep(0.02)
    assert all(decky.phase is DeckyPhase.RUNNING for decky in await store.fleet.current())
    assert [shard.generation for shard in slow.shards] == [first.result()["generation"], second["generation"]]


async def test_a_change_for_a_busy_worker_is_told_and_sent_after(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "BUSY_SECS", 0.05)
    agent = await worker("w1", controller, stack, tmp_path)
    agent.release.clear()
    first = asyncio.create_task(deploy(controller, 1))
    async with asyncio.timeout(10):
        await agent.asked.wait()
    replies = [await deploy(controller, 1) for _ in range(3)]
    for reply in replies:
        (row,) = reply["results"]
        assert not row["ok"]
        assert "still busy with generation" in row["error"]
    (row,) = (await deploy(controller, 0))["results"]
    assert "still busy" in row["error"], "who asks for what is unsettled is told of it"
    agent.release.set()
    await first
    async with asyncio.timeout(10):
        while len(agent.running) < 4:
            await asyncio.sleep(0.02)
    assert len(agent.shards) == 2, "of those that waited only the newest was sent"


async def test_who_is_decommissioned_meanwhile_is_spoken_to_no_more(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path
) -> None:
    agent = await worker("w1", controller, stack, tmp_path)
    agent.release.clear()
    first = asyncio.create_task(deploy(controller, 1))
    async with asyncio.timeout(10):
        await agent.asked.wait()
        await controller.post("/hosts/w1/decommission")
        (row,) = (await first)["results"]
    assert "was decommissioned meanwhile" in row["error"]
    agent.release.set()


async def test_what_runs_where_a_worker_was_decommissioned_is_not_known(
    controller: httpx.AsyncClient, store: Store, stack: AsyncExitStack, tmp_path: Path
) -> None:
    for name in ("w1", "w2"):
        await worker(name, controller, stack, tmp_path)
    await deploy(controller, 2)
    await controller.post("/hosts/w1/decommission")

    async def shown(state: str) -> list[tuple[str, str | None, str]]:
        answer = await controller.get("/fleet/deckies", params={"state": state})
        return [(decky["host"], decky["phase"], decky["host_status"]) for decky in answer.json()["deckies"]]

    assert await shown("running") == [("w2", "running", "active")]
    assert await shown("unknown") == [("w1", None, "decommissioned")]
    # A report that was under way, and whoever plays the worker since, change nothing about that.
    (gone,) = [decky for decky in await store.fleet.current() if decky.host == "w1"]
    state = DeckyState(name=gone.spec.name, phase=DeckyPhase.RUNNING, services=gone.spec.services)
    await store.fleet.record(ShardReport(host="w1", generation=99, deckies=(state,)))
    assert await shown("running") == [("w2", "running", "active")]
    (again,) = (await store.fleet.of_workers(["w1"]))[1]["w1"].wanted
    assert (again.phase, again.known_phase) == (DeckyPhase.RUNNING, None)


async def test_an_agents_revoked_certificate_is_refused_before_anything_is_sent(
    controller: httpx.AsyncClient, store: Store, stack: AsyncExitStack, tmp_path: Path
) -> None:
    """The name is back, and who answers still holds what it had before: the TLS library finds nothing wrong."""
    before = await worker("w1", controller, stack, tmp_path / "before")
    port = (await store.hosts.get("w1")).agent_port
    await controller.post("/hosts/w1/decommission")
    answer = await controller.post("/hosts", json={"name": "w1"})
    settings = AgentSettings.load(data_directory=tmp_path / "after", agent_address=f"127.0.0.1:{port}")
    await asyncio.to_thread(joining.join, settings, JoinToken.parse(answer.json()["token"]))
    reply = await deploy(controller, 1)
    assert "certificate that is not current" in reply["results"][0]["error"]
    assert before.shards == []


async def test_another_identity_of_the_worker_is_not_its_agent(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path
) -> None:
    impostor = await worker("w1", controller, stack, tmp_path, role=Role.UPDATER)
    reply = await deploy(controller, 1)
    assert "updater@w1 answered" in reply["results"][0]["error"]
    assert impostor.shards == []


async def test_another_workers_agent_is_not_this_one(
    controller: httpx.AsyncClient, store: Store, stack: AsyncExitStack, tmp_path: Path
) -> None:
    other = await worker("w2", controller, stack, tmp_path)
    port = (await store.hosts.get("w2")).agent_port
    # w3 says that it answers where w2 does.
    answer = await controller.post("/hosts", json={"name": "w3"})
    settings = AgentSettings.load(data_directory=tmp_path / "w3", agent_address=f"127.0.0.1:{port}")
    await asyncio.to_thread(joining.join, settings, JoinToken.parse(answer.json()["token"]))

    reply = await deploy(controller, 1, hosts=["w3"])

    assert not reply["results"][0]["ok"]
    assert "is not w3" in reply["results"][0]["error"]
    assert other.shards == []


async def test_what_an_agent_says_is_held_to_the_contract(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path
) -> None:
    agent = await worker("w1", controller, stack, tmp_path)
    agent.broken.add("till-01")
    agent.reason = "\x1b[2J" * 1000
    reply = await deploy(controller, 1, name_prefix="till")
    assert reply["results"][0]["error"].isprintable()
    assert len(reply["results"][0]["error"]) < 1000
    agent.host = "w2"
    lied = await deploy(controller, 0)
    assert "reported on another shard" in lied["results"][0]["error"]


async def test_check_tells_who_answers(controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path) -> None:
    assert (await controller.post("/hosts/check")).status_code == 409, "there is nobody"
    await worker("w1", controller, stack, tmp_path)
    async with AsyncExitStack() as short:
        await worker("w2", controller, short, tmp_path)
    results = {row["host"]: row for row in (await controller.post("/hosts/check")).json()["results"]}
    assert results["w1"]["ok"]
    assert results["w1"]["engine"] == "20.10.24"
    assert not results["w2"]["ok"]


async def test_no_worker_and_no_such_worker(controller: httpx.AsyncClient) -> None:
    none = await controller.post("/fleet/deploy", json={"count": 1})
    assert none.status_code == 409
    assert none.json()["type"] == "urn:decnet:problem:no-workers"
    assert (await controller.post("/fleet/deploy", json={"count": -1})).status_code == 422
    assert (await controller.post("/fleet/deploy", json={"cuont": 1})).status_code == 422
