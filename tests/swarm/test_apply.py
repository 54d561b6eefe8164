"""Plans that are shown and plans that are done, through the controller, to agents over mutual TLS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from decnet_core.enrolment import JoinToken
from decnet_master.store import Store
from tests.swarm.agents import JoinedAgent, joined

pytestmark = pytest.mark.slow  # a controller and workers over mutual TLS for each test

WAIT_SECS = 60.0


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def worker(name: str, controller: httpx.AsyncClient, stack: AsyncExitStack, folder: Path) -> JoinedAgent:
    answer = await controller.post("/hosts", json={"name": name})
    return await stack.enter_async_context(joined(JoinToken.parse(answer.json()["token"]), folder))


async def posted(controller: httpx.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    answer = await controller.post(f"/fleet/{path}", json=body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def group(*names: str, **more: Any) -> dict[str, Any]:
    return {"names": names, **more}


async def test_what_a_dry_run_shows_is_what_is_deployed(
    controller: httpx.AsyncClient, store: Store, stack: AsyncExitStack, tmp_path: Path
) -> None:
    agent = await worker("w1", controller, stack, tmp_path)
    shown = await posted(controller, "deploy/plan", count=3, services=["ssh"])
    assert shown == await posted(controller, "deploy/plan", count=3, services=["ssh"])
    assert [step["action"] for step in shown["steps"]] == ["add"] * 3
    assert agent.shards == []
    assert await store.fleet.current() == []
    assert (await store.fleet.of_workers(()))[0] == 0, "a dry run takes no generation"

    # Without the id too: as long as nothing changed, the same is asked for and the same is done.
    reply = await posted(controller, "deploy", count=3, services=["ssh"])
    assert list(reply["added"]) == [step["name"] for step in shown["steps"]]
    assert {decky.spec.mac for decky in await store.fleet.current()} == {step["mac"] for step in shown["steps"]}

    more = await posted(controller, "deploy/plan", count=3, services=["ssh"])
    assert not {step["name"] for step in more["steps"]} & set(reply["added"])
    done = await posted(controller, "deploy", count=3, services=["ssh"], plan=more["id"])
    assert list(done["added"]) == [step["name"] for step in more["steps"]]


async def test_a_plan_that_is_another_by_now_is_refused(
    controller: httpx.AsyncClient, store: Store, stack: AsyncExitStack, tmp_path: Path
) -> None:
    agent = await worker("w1", controller, stack, tmp_path)
    shown = await posted(controller, "deploy/plan", count=1)
    await posted(controller, "deploy", count=1)
    sent, fleet = len(agent.shards), await store.fleet.current()
    refused = await controller.post("/fleet/deploy", json={"count": 1, "plan": shown["id"]})
    assert refused.status_code == 409
    assert shown["id"] in refused.json()["detail"]
    assert "--dry-run" in refused.json()["advice"]
    other = await controller.post("/fleet/deploy", json={"count": 2, "plan": shown["id"]})
    assert other.status_code == 409, "an id is of one request"
    assert (len(agent.shards), await store.fleet.current()) == (sent, fleet)
    assert (await controller.post("/fleet/deploy", json={"plan": "no id"})).status_code == 422


async def test_a_worker_more_makes_another_plan(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path
) -> None:
    await worker("w1", controller, stack, tmp_path)
    shown = await posted(controller, "deploy/plan", count=2)
    await worker("w2", controller, stack, tmp_path)
    refused = await controller.post("/fleet/deploy", json={"count": 2, "plan": shown["id"]})
    assert refused.status_code == 409


async def test_a_declared_fleet_comes_changes_and_goes(
    controller: httpx.AsyncClient, store: Store, stack: AsyncExitStack, tmp_path: Path
) -> None:
    agents = [await worker(name, controller, stack, tmp_path) for name in ("w1", "w2")]
    both = [group("a", "b", "c"), group("d", hosts=["w2"], services=["ftp"])]
    plan = await posted(controller, "apply/plan", groups=both)
    assert {(step["action"], step["name"]) for step in plan["steps"]} == {("add", name) for name in "abcd"}
    first = await posted(controller, "apply", groups=both, plan=plan["id"])
    assert set(first["added"]) == set("abcd")
    assert "d" in agents[1].running

    # The same again: nothing is sent, and no generation is taken.
    sent = [len(agent.shards) for agent in agents]
    again = await posted(controller, "apply", groups=both)
    assert (again["generation"], again["results"], again["added"]) == (first["generation"], [], [])
    assert [len(agent.shards) for agent in agents] == sent
    assert (await posted(controller, "apply/plan", groups=both))["kept"] == 4

    # Another service for one, one more, and one that nobody declares any more: which stays.
    before = {decky.spec.name: decky for decky in await store.fleet.current()}
    other = [group("a", services=["ssh", "http"]), group("b", "e"), group("d", services=["ftp"])]
    plan = await posted(controller, "apply/plan", groups=other)
    assert [(step["action"], step["name"]) for step in plan["steps"]] == [("add", "e"), ("change", "a")]
    assert (plan["undeclared"], plan["kept"]) == (["c"], 3)
    second = await posted(controller, "apply", groups=other, plan=plan["id"])
    assert (second["added"], second["changed"], second["removed"]) == (["e"], ["a"], [])
    assert second["generation"] > first["generation"]
    after = {decky.spec.name: decky for decky in await store.fleet.current()}
    assert {name: after[name].host for name in before} == {name: before[name].host for name in before}
    assert after["a"].spec.accounts == before["a"].spec.accounts
    told = {place.host for place in (after["a"], after["e"])}
    assert {row["host"] for row in second["results"]} == told, "who is not concerned is left alone"

    third = await posted(controller, "apply", groups=other, prune=True)
    assert third["removed"] == ["c"]
    assert agents[0].running.keys() | agents[1].running.keys() == set("abde")
    assert await store.fleet.lingering() == []


async def test_a_decky_stays_where_it_is(controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path) -> None:
    agents = [await worker(name, controller, stack, tmp_path) for name in ("w1", "w2")]
    await posted(controller, "apply", groups=[group("a", hosts=["w1"])])
    plan = await posted(controller, "apply/plan", groups=[group("a", hosts=["w2"])])
    assert (plan["steps"], [stray["name"] for stray in plan["strays"]]) == ([], ["a"])
    await posted(controller, "apply", groups=[group("a", hosts=["w2"])])
    assert [len(agent.running) for agent in agents] == [1, 0]


async def test_an_apply_mends_what_failed_before(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path
) -> None:
    agent = await worker("w1", controller, stack, tmp_path)
    agent.broken.add("a")
    failed = await posted(controller, "apply", groups=[group("a", "b")])
    assert [row["ok"] for row in failed["results"]] == [False]
    plan = await posted(controller, "apply/plan", groups=[group("a", "b")])
    assert (plan["steps"], plan["unsettled"]) == ([], ["w1"])
    agent.broken.clear()
    mended = await posted(controller, "apply", groups=[group("a", "b")], plan=plan["id"])
    assert [row["ok"] for row in mended["results"]] == [True]
    assert (await posted(controller, "apply", groups=[group("a", "b")]))["results"] == []


async def test_what_cannot_be_applied_is_refused_and_changes_nothing(
    controller: httpx.AsyncClient, store: Store, stack: AsyncExitStack, tmp_path: Path
) -> None:
    await worker("w1", controller, stack, tmp_path)
    bodies: list[tuple[dict[str, Any], int]] = [
        ({"groups": [group("a"), group("a")]}, 409),
        ({"groups": [group("a", hosts=["w9"])]}, 404),
        ({"groups": [group("a", labels={"site": "hq"})]}, 404),
        ({"groups": [group("Not_a_label")]}, 422),
        ({"groups": [group("a", services=[])]}, 422),
        ({"groups": [group("a", labels={"Site": "x"})]}, 422),
        ({"groups": [group("a")], "prnue": True}, 422),
        ({}, 422),
    ]
    for body, status in bodies:
        for path in ("apply", "apply/plan"):
            assert (await controller.post(f"/fleet/{path}", json=body)).status_code == status, body
    assert (await store.fleet.of_workers(()))[0] == 0


async def lines_of(controller: httpx.AsyncClient, path: str, into: list[dict[str, Any]], **body: Any) -> None:
    asked = controller.stream("POST", path, json=body, headers={"accept": "application/x-ndjson"})
    async with asked as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            into.append(json.loads(line))  # noqa: PERF401 -- others look at it meanwhile


async def test_progress_is_told_as_workers_answer(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path
) -> None:
    quick, slow = [await worker(name, controller, stack, tmp_path) for name in ("w1", "w2")]
    slow.release.clear()
    slow.broken.add("b")
    lines: list[dict[str, Any]] = []
    wanted = [group("a", hosts=["w1"]), group("b", hosts=["w2"])]
    telling = asyncio.create_task(lines_of(controller, "/fleet/apply", lines, groups=wanted))
    async with asyncio.timeout(WAIT_SECS):
        while len(lines) < 2:
            await asyncio.sleep(0.02)
    assert [(line["workers"], line["done"], line["failed"]) for line in lines] == [(2, 0, 0), (2, 1, 0)]
    assert quick.running.keys() == {"a"}
    slow.release.set()
    await telling
    assert [(line["done"], line["failed"]) for line in lines[2:]] == [(2, 1), (2, 1)]
    assert [line["reply"] is None for line in lines] == [True, True, True, False]
    assert [row["ok"] for row in lines[-1]["reply"]["results"]] == [True, False]


async def test_a_problem_is_told_instead_of_lines(controller: httpx.AsyncClient) -> None:
    accept = {"accept": "application/x-ndjson"}
    answer = await controller.post("/fleet/deploy", json={"count": 1}, headers=accept)
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:decnet:problem:no-workers"


async def test_who_stops_reading_stops_nothing_else(
    controller: httpx.AsyncClient, store: Store, stack: AsyncExitStack, tmp_path: Path
) -> None:
    agent = await worker("w1", controller, stack, tmp_path)
    agent.release.clear()
    telling = asyncio.create_task(lines_of(controller, "/fleet/deploy", [], count=2))
    async with asyncio.timeout(WAIT_SECS):
        await agent.asked.wait()
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    agent.release.set()
    async with asyncio.timeout(WAIT_SECS):
        while [decky.phase for decky in await store.fleet.current()] != ["running"] * 2:
            await asyncio.sleep(0.02)


async def test_deckies_are_shown_by_worker_and_state(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path
) -> None:
    agents = {name: await worker(name, controller, stack, tmp_path) for name in ("w1", "w2")}
    agents["w2"].broken.add("c")
    await posted(controller, "apply", groups=[group("a", hosts=["w1"]), group("b", "c", hosts=["w2"])])

    async def shown(query: str) -> list[str]:
        answer = await controller.get(f"/fleet/deckies?{query}")
        assert answer.status_code == 200, answer.text
        return [decky["name"] for decky in answer.json()["deckies"]]

    assert await shown("") == ["a", "b", "c"]
    assert await shown("host=w2") == ["b", "c"]
    assert await shown("host=w2&host=w1&state=running") == ["a", "b"]
    assert await shown("state=failed&state=unknown") == ["c"]
    assert await shown("state=unknown") == []
    assert (await controller.get("/fleet/deckies?state=lost")).status_code == 422
