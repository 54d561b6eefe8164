"""The fleet over HTTP: deploy, apply, mutate, reset, teardown, and what each would do; deckies.

    POST /fleet/deploy, /fleet/apply, /fleet/mutate, /fleet/reset      change the fleet
    POST /fleet/deploy/plan, …/plan                                    tell what that would do
    POST /fleet/teardown
    GET  /fleet/deckies?host=&state=

A change answers when every worker has; that may take a quarter of an hour. A client that accepts
`application/x-ndjson` is told of each worker as it answers: one `FleetProgress` a line, the last with the reply. What
is wrong with a request is found before the first line, and is a problem like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from decnet_core.fleet import DeckyPhase, HostName
from decnet_master.planning import FleetChange, Placement, plan_id
from decnet_master.store import Store
from decnet_master.swarmctl.changes import Begun, Changes, Present
from decnet_master.swarmctl.fleet_messages import (
    ApplyRequest,
    FleetPlan,
    FleetProgress,
    MutateRequest,
    PlanStep,
    ResetRequest,
    StrayView,
)
from decnet_master.swarmctl.messages import DeployRequest, FleetReply, TeardownRequest, WorkerResult
from decnet_master.views import DeckyList, decky_list

LINES = "application/x-ndjson"

Accept = Annotated[str, Header()]
State = DeckyPhase | Literal["unknown"]


def router(store: Store, changes: Changes) -> APIRouter:
    """Build the room's routes."""
    routes = APIRouter(prefix="/fleet")

    @routes.get("/deckies")
    async def deckies(
        host: Annotated[list[HostName] | None, Query(max_length=1000)] = None,
        state: Annotated[list[State] | None, Query(max_length=10)] = None,
    ) -> DeckyList:
        found = await store.fleet.current()
        shown = [
            decky
            for decky in found
            if (not host or decky.host in host) and (not state or (decky.known_phase or "unknown") in state)
        ]
        return decky_list(shown, await store.heartbeats.list())

    _add_plans(routes, changes)
    _add_changes(routes, changes)
    return routes


def _add_plans(routes: APIRouter, changes: Changes) -> None:
    @routes.post("/deploy/plan")
    async def plan_deploy(request: DeployRequest) -> FleetPlan:
        return _plan(*await changes.look(request))

    @routes.post("/apply/plan")
    async def plan_apply(request: ApplyRequest) -> FleetPlan:
        return _plan(*await changes.look(request))

    @routes.post("/mutate/plan")
    async def plan_mutate(request: MutateRequest) -> FleetPlan:
        return _plan(*await changes.look(request))

    @routes.post("/reset/plan")
    async def plan_reset(request: ResetRequest) -> FleetPlan:
        return _plan(*await changes.look(request))


def _add_changes(routes: APIRouter, changes: Changes) -> None:
    @routes.post("/deploy")
    async def deploy(request: DeployRequest, accept: Accept = "") -> Response:
        return await _answer(changes, await changes.begin(request), accept)

    @routes.post("/apply")
    async def apply(request: ApplyRequest, accept: Accept = "") -> Response:
        return await _answer(changes, await changes.begin(request), accept)

    @routes.post("/mutate")
    async def mutate(request: MutateRequest, accept: Accept = "") -> Response:
        return await _answer(changes, await changes.begin(request), accept)

    @routes.post("/reset")
    async def reset(request: ResetRequest, accept: Accept = "") -> Response:
        return await _answer(changes, await changes.begin(request), accept)

    @routes.post("/teardown")
    async def teardown(request: TeardownRequest, accept: Accept = "") -> Response:
        return await _answer(changes, await changes.begin_teardown(request), accept)


async def _answer(changes: Changes, begun: Begun, accept: str) -> Response:
    if LINES in accept:
        return StreamingResponse(_lines(changes, begun), media_type=LINES)
    reply: FleetReply = await changes.finish(begun)
    return Response(reply.model_dump_json(), media_type="application/json")


async def _lines(changes: Changes, begun: Begun) -> AsyncIterator[str]:
    """Tell of each worker as it answers. Who reads no more ends only the telling: shards under way go on."""
    results: asyncio.Queue[WorkerResult | None] = asyncio.Queue()  # as many as there are workers, at most
    finishing = asyncio.create_task(changes.finish(begun, results.put_nowait))
    finishing.add_done_callback(lambda _task: results.put_nowait(None))
    progress = FleetProgress(workers=len(begun.hosts) + len(begun.missing), done=0, failed=0)
    try:
        yield progress.model_dump_json() + "\n"
        while (result := await results.get()) is not None:
            failed = progress.failed + (not result.ok)
            progress = progress.model_copy(update={"done": progress.done + 1, "failed": failed})
            yield progress.model_dump_json() + "\n"
        yield progress.model_copy(update={"reply": finishing.result()}).model_dump_json() + "\n"
    finally:
        finishing.cancel()


def _plan(present: Present, change: FleetChange) -> FleetPlan:
    return FleetPlan(
        id=plan_id(change),
        generation=present.generation,
        steps=(
            *(_step("add", placement) for placement in change.added),
            *(_step("change", placement) for placement in change.changed),
            *(_step("remove", placement) for placement in change.removed),
        ),
        kept=change.kept,
        undeclared=change.undeclared,
        strays=tuple(StrayView(name=stray.name, host=stray.host, why=stray.why) for stray in change.strays),
        allowed=tuple(sorted(placement.decky.name for placement in change.allowed)),
        unsettled=tuple(sorted(present.unsettled)),
    )


def _step(action: Literal["add", "change", "remove"], placement: Placement) -> PlanStep:
    decky = placement.decky
    return PlanStep(action=action, name=decky.name, host=placement.host, services=decky.services, mac=decky.mac)
