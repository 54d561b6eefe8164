"""One contract for agents, held against the real one (on an engine in memory) and against the simulated one.

Both are called as the master calls them: by its own client, over mutual TLS, through the agent's server and routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from decnet_agent.api import routes, server
from decnet_core.endpoints import Endpoint, listen
from decnet_core.errors import Conflict, TrustError, Unavailable
from decnet_core.fleet import DeckyPhase, DeckySpec, Shard, ShardReport
from decnet_core.identity import MASTER, Identity, Role
from decnet_core.pki.tls import IdentityFiles, client_context, server_context
from decnet_master.swarmctl.agent_client import AgentClient, Worker
from tests.pki.world import Ca
from tests.swarm.simulated import SUBNET, SimulatedAgent
from tests.swarm.simulated_engine import FACTS, SimulatedEngine, real_agent

pytestmark = [pytest.mark.slow, pytest.mark.long]  # the real agent, over mutual TLS, for each test

HOST = "w1"
POOL = IPv4Network("10.20.128.0/17")
"""Where the real agent takes addresses that nobody named; the simulated one takes the lowest. Neither is named here."""

ADDRESSES = [None, SUBNET[77], SUBNET[78], IPv4Address("192.0.2.7")]


@dataclass
class Knobs:
    """What both kinds can be made to suffer."""

    broken: set[str]
    end: Callable[[str], None]
    engine: Callable[[bool], None]


@dataclass
class Subject:
    worker: Worker
    master: AgentClient
    knobs: Knobs

    async def deploy(self, generation: int, *deckies: DeckySpec) -> ShardReport:
        return await self.master.deploy(self.worker, Shard(generation=generation, deckies=deckies))


@dataclass(frozen=True)
class Pki:
    ca: Ca
    folder: Path

    def files(self, identity: Identity) -> IdentityFiles:
        return self.ca.files(self.folder / str(identity), identity)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(Ca.make(), tmp_path_factory.mktemp("pki"))


@pytest.fixture(params=["real", "simulated"])
async def subject(request: pytest.FixtureRequest, pki: Pki, tmp_path: Path) -> AsyncIterator[Subject]:
    async with _agent(request.param, tmp_path) as (agent, knobs), _served(agent, pki) as worker:
        yield Subject(worker, _client(pki, MASTER), knobs)


@asynccontextmanager
async def _agent(kind: str, folder: Path) -> AsyncIterator[tuple[routes.Agent, Knobs]]:
    if kind == "simulated":
        simulated = SimulatedAgent(HOST)

        def answer(there: bool) -> None:
            simulated.engine = "20.10.24" if there else None

        yield simulated, Knobs(simulated.broken, simulated.end, answer)
        return
    engine = SimulatedEngine()
    real = real_agent(HOST, engine, folder, replace(FACTS, ip_range=POOL))
    try:
        yield real, Knobs(engine.broken, engine.end, lambda there: setattr(engine, "answers", there))
    finally:
        real.executor.close()


@asynccontextmanager
async def _served(agent: routes.Agent, pki: Pki) -> AsyncIterator[Worker]:
    listening = listen(Endpoint("127.0.0.1", 0), "agent-address")
    port, up = listening.getsockname()[1], asyncio.Event()
    tls = server_context(pki.files(Identity(Role.AGENT, HOST)))
    task = asyncio.create_task(server.serve(routes.build(agent), listening, tls, up.set))
    try:
        async with asyncio.timeout(60):
            await up.wait()
        yield Worker(HOST, "127.0.0.1", port)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _client(pki: Pki, identity: Identity) -> AgentClient:
    files = pki.files(identity)
    context = client_context(files, files.ca)

    async def current(_identity: Identity, _fingerprint: str) -> bool:
        return True

    return AgentClient(lambda: context, current)


def decky(name: str, *, service: str = "http", ip: IPv4Address | None = None, mac: str | None = None) -> DeckySpec:
    return DeckySpec(name=name, services=(service,), ip=ip, mac=mac)


def containers(report: ShardReport) -> dict[str, str | None]:
    return {state.name: state.container for state in report.deckies}


async def test_it_says_who_it_is(subject: Subject) -> None:
    health = await subject.master.health(subject.worker)
    assert (health.role, health.host, health.ok) == ("agent", HOST, True)


async def test_before_the_first_shard_nothing_runs(subject: Subject) -> None:
    status = await subject.master.status(subject.worker)
    assert (status.host, status.generation, status.deckies, status.engine) == (HOST, 0, (), "20.10.24")


async def test_a_shard_runs_and_is_told_as_it_was_asked_for(subject: Subject) -> None:
    wanted = (decky("c"), decky("a", mac="3c:d9:2b:00:00:01"), decky("b", ip=SUBNET[77]))
    report = await subject.deploy(3, *wanted)
    assert (report.host, report.generation, report.removed, report.ok) == (HOST, 3, (), True)
    assert [(state.name, state.services, state.error) for state in report.deckies] == [
        ("c", ("http",), None),
        ("a", ("http",), None),
        ("b", ("http",), None),
    ]
    by_name = {state.name: state for state in report.deckies}
    assert by_name["a"].mac == "3c:d9:2b:00:00:01"
    assert by_name["b"].ip == SUBNET[77]
    assert len({state.ip for state in report.deckies} & set(SUBNET.hosts())) == 3
    assert len({state.mac for state in report.deckies}) == len(set(containers(report).values())) == 3
    status = await subject.master.status(subject.worker)
    assert status.generation == 3
    assert status.deckies == report.deckies


async def test_the_same_shard_again_changes_nothing(subject: Subject) -> None:
    wanted = (decky("a"), decky("b"))
    first = await subject.deploy(1, *wanted)
    assert await subject.deploy(1, *wanted) == first


async def test_only_what_differs_is_touched(subject: Subject) -> None:
    before = containers(await subject.deploy(1, decky("a"), decky("b"), decky("c")))
    report = await subject.deploy(2, decky("a"), decky("b", service="smtp"), decky("d"))
    after = containers(report)
    assert report.ok
    assert report.removed == ("c",)
    assert after["a"] == before["a"]
    assert after["b"] not in before.values()
    assert after["d"] not in before.values()


async def test_an_older_generation_is_refused_and_does_nothing(subject: Subject) -> None:
    report = await subject.deploy(5, decky("a"))
    with pytest.raises(Conflict, match="Generation 4 is older than 5"):
        await subject.deploy(4, decky("b"))
    status = await subject.master.status(subject.worker)
    assert (status.generation, status.deckies) == (5, report.deckies)


async def test_teardown_leaves_what_the_shard_still_holds(subject: Subject) -> None:
    before = containers(await subject.deploy(1, decky("a"), decky("b")))
    report = await subject.master.teardown(subject.worker, Shard(generation=2, deckies=(decky("b"),)))
    assert report.removed == ("a",)
    assert containers(report) == {"b": before["b"]}
    empty = await subject.master.teardown(subject.worker, Shard(generation=3))
    assert (empty.removed, empty.deckies) == (("b",), ())


async def test_a_decky_that_fails_fails_alone_and_the_next_try_mends_it(subject: Subject) -> None:
    subject.knobs.broken.add("b")
    report = await subject.deploy(1, decky("a"), decky("b"))
    assert not report.ok
    assert [state.phase for state in report.deckies] == [DeckyPhase.RUNNING, DeckyPhase.FAILED]
    assert "the image is missing" in (report.deckies[1].error or "")
    subject.knobs.broken.clear()
    again = await subject.deploy(1, decky("a"), decky("b"))
    assert again.ok
    assert containers(again)["a"] == containers(report)["a"]


async def test_what_ended_by_itself_is_told_and_brought_back(subject: Subject) -> None:
    first = await subject.deploy(1, decky("a"), decky("b"))
    subject.knobs.end("a")
    status = await subject.master.status(subject.worker)
    assert [(state.name, state.phase) for state in status.deckies] == [
        ("a", DeckyPhase.STOPPED),
        ("b", DeckyPhase.RUNNING),
    ]
    assert await subject.deploy(1, decky("a"), decky("b")) == first


async def test_without_an_engine_it_answers_and_knows_what_is_wanted(subject: Subject) -> None:
    subject.knobs.engine(False)
    with pytest.raises(Unavailable, match="No Docker engine answers"):
        await subject.deploy(2, decky("a"))
    status = await subject.master.status(subject.worker)
    assert (status.engine, status.generation) == (None, 2)
    assert [state.phase for state in status.deckies] == [DeckyPhase.STOPPED]
    with pytest.raises(Conflict):
        await subject.deploy(1, decky("a"))
    subject.knobs.engine(True)
    assert (await subject.deploy(2, decky("a"))).ok


async def test_shards_that_come_at_once_are_taken_one_after_the_other(subject: Subject) -> None:
    results = await asyncio.gather(
        *(subject.deploy(number, decky(f"d{number}")) for number in range(1, 9)), return_exceptions=True
    )
    assert all(isinstance(result, ShardReport | Conflict) for result in results)
    status = await subject.master.status(subject.worker)
    assert status.generation == 8
    assert [(state.name, state.phase) for state in status.deckies] == [("d8", DeckyPhase.RUNNING)]


@pytest.mark.parametrize("role", [Role.AGENT, Role.UPDATER, Role.LOGSHIP])
async def test_nobody_but_the_master_is_answered(subject: Subject, pki: Pki, role: Role) -> None:
    stranger = _client(pki, Identity(role, "w2"))
    with pytest.raises(TrustError, match="may not command an agent"):
        await stranger.status(subject.worker)


_deckies = st.lists(
    st.builds(
        lambda name, service, ip: decky(name, service=service, ip=ip),
        st.sampled_from("abcdef"),
        st.sampled_from(["http", "smtp"]),
        st.sampled_from(ADDRESSES),
    ),
    max_size=4,
    unique_by=lambda spec: spec.name,
)
_acts = st.lists(
    st.tuples(_deckies, st.integers(-1, 2), st.frozensets(st.sampled_from("abcdef"), max_size=2), st.booleans()),
    min_size=1,
    max_size=6,
)


def _shards(*shards: dict[str, IPv4Address | None]) -> list:
    return [([decky(name, ip=ip) for name, ip in shard.items()], 1, frozenset(), False) for shard in shards]


@given(_acts)
@example(
    _shards({"a": SUBNET[77], "b": SUBNET[77]}, {"b": SUBNET[77]}, {"b": None}, {"a": SUBNET[77], "b": SUBNET[77]})
)
@example(
    _shards({"b": SUBNET[77]}, {"a": SUBNET[77], "b": SUBNET[77]}, {"a": SUBNET[78], "b": None}, {"a": SUBNET[77]})
)
@example(_shards({"b": SUBNET[77]}, {"b": None}, {"a": SUBNET[77], "b": None}, {"b": SUBNET[77]}, {"b": ADDRESSES[3]}))
def test_whatever_is_asked_for_both_tell_the_same(tmp_path_factory: pytest.TempPathFactory, acts: list) -> None:
    """Shards, generations back and forth, deckies that fail and deckies that end: seen from the master."""
    told = [asyncio.run(_lived(kind, tmp_path_factory.mktemp(kind), acts)) for kind in ("real", "simulated")]
    assert told[0] == told[1]


async def _lived(kind: str, folder: Path, acts: list) -> list[object]:
    told: list[object] = []
    generation = 1
    was: set[tuple[str, IPv4Address | None, IPv4Address | None]] = set()
    async with _agent(kind, folder) as (agent, knobs):
        names: dict[str | None, int] = {None: 0}
        for deckies, step, broken, ends in acts:
            generation = max(1, generation + step)
            knobs.broken.clear()
            knobs.broken.update(broken)
            running = [s.name for s in (await agent.status()).deckies if s.phase is DeckyPhase.RUNNING]
            if ends and running:
                knobs.end(running[0])
            try:
                report = await agent.apply(Shard(generation=generation, deckies=tuple(deckies)))
            except Conflict:
                told.append("refused")
            else:
                told.append((report.removed, report.generation, [_seen(state, names) for state in report.deckies]))
                # What is named is given to somebody; unless each for whom it was named before stays where it was.
                asked = {spec.name: spec.ip for spec in deckies}
                now = {(state.name, asked[state.name], state.ip) for state in report.deckies}
                stayed = {named for _name, named, _ip in now & was}
                wanted = set(asked.values()) & set(ADDRESSES[1:3])
                assert wanted <= {state.ip for state in report.deckies} | stayed
                was = now
            status = await agent.status()
            told.append((status.generation, [(state.name, state.phase) for state in status.deckies]))
            addresses = [state.ip for state in status.deckies if state.phase is DeckyPhase.RUNNING]
            assert len(set(addresses)) == len(addresses)
            assert all(ip in SUBNET for ip in addresses)
    return told


def _seen(state, names: dict[str | None, int]) -> tuple:
    """A decky as it was reported: which container it is, by the order in which they were first seen; its address if it
    was named for one."""
    number = names.setdefault(state.container, len(names))
    return state.name, state.phase, state.services, number, state.ip if state.ip in ADDRESSES else None
