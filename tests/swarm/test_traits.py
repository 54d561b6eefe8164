"""Labels and capacity through the controller, to agents over mutual TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from decnet_core.enrolment import JoinToken
from tests.swarm.agents import JoinedAgent, joined

pytestmark = pytest.mark.slow  # a controller and workers over mutual TLS for each test


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def worker(
    name: str, controller: httpx.AsyncClient, stack: AsyncExitStack, folder: Path, **labels: str
) -> JoinedAgent:
    answer = await controller.post("/hosts", json={"name": name, "labels": labels})
    assert answer.status_code == 201, answer.text
    return await stack.enter_async_context(joined(JoinToken.parse(answer.json()["token"]), folder))


async def test_labels_choose_where_deckies_run(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path
) -> None:
    hq = await worker("w1", controller, stack, tmp_path, site="hq")
    lab = await worker("w2", controller, stack, tmp_path)
    shown = await controller.post("/hosts/w2/labels", json={"labels": {"site": "lab", "rack": "2"}})
    assert shown.json()["labels"] == {"site": "lab", "rack": "2"}
    answer = await controller.post("/fleet/deploy", json={"count": 3, "labels": {"site": "lab"}})
    assert answer.status_code == 200, answer.text
    assert (len(hq.running), len(lab.running)) == (0, 3)
    # Taking the label away leaves what runs; only the next plan sees it.
    await controller.post("/hosts/w2/labels", json={"remove": ["site"]})
    assert len(lab.running) == 3
    nobody = await controller.post("/fleet/deploy", json={"count": 1, "labels": {"site": "lab"}})
    assert nobody.status_code == 404
    assert "site=lab" in nobody.json()["detail"]
    hosts = (await controller.get("/hosts")).json()["hosts"]
    assert [host["labels"] for host in hosts] == [{"site": "hq"}, {"rack": "2"}]


async def test_capacity_is_kept_and_the_full_are_named(
    controller: httpx.AsyncClient, stack: AsyncExitStack, tmp_path: Path
) -> None:
    first = await worker("w1", controller, stack, tmp_path)
    second = await worker("w2", controller, stack, tmp_path)
    assert (await controller.post("/hosts/w1/capacity", json={"capacity": 1})).json()["capacity"] == 1
    await controller.post("/fleet/deploy", json={"count": 5})
    assert (len(first.running), len(second.running)) == (1, 4)
    await controller.post("/hosts/w2/capacity", json={"capacity": 2})
    full = await controller.post("/fleet/deploy", json={"count": 1})
    assert full.status_code == 409
    assert "w1 (1 of 1), w2 (4 of 2)" in full.json()["detail"]
    assert len(second.running) == 4, "a smaller capacity ends nothing"
    await controller.post("/hosts/w1/capacity", json={"capacity": None})
    await controller.post("/fleet/deploy", json={"count": 1})
    assert len(first.running) == 2


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("w9/labels", {"labels": {"site": "hq"}}, 404),
        ("w9/capacity", {"capacity": 1}, 404),
        ("w1/labels", {"labels": {"Site": "hq"}}, 422),
        ("w1/labels", {"labels": {"site": "\x1b[2J"}}, 422),
        ("w1/labels", {"labels": {f"k{number}": "v" for number in range(17)}}, 422),
        ("w1/capacity", {"capacity": -1}, 422),
        ("w1/capacity", {"capacity": 1001}, 422),
        ("w1/capacity", {}, 422),
        ("Not_a_label/capacity", {"capacity": 1}, 422),
    ],
)
async def test_what_makes_no_sense_is_refused(
    controller: httpx.AsyncClient, path: str, body: dict[str, object], status: int
) -> None:
    await controller.post("/hosts", json={"name": "w1"})
    assert (await controller.post(f"/hosts/{path}", json=body)).status_code == status
