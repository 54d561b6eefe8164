"""The executor and what it hears on the LAN, on an engine in memory; state and planner are the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from decnet_agent.app import Agent
from decnet_agent.deploying.enquiry import ROUNDS
from decnet_agent.deploying.lan import NetworkFacts
from decnet_agent.engine.probing import parse_claims
from decnet_core.errors import ConfigError, RemoteProtocolError, Unavailable
from decnet_core.fleet import DeckyPhase, DeckySpec, DeckyState, Shard, ShardReport
from tests.swarm.simulated_engine import FACTS, SimulatedEngine, real_agent

STRANGER = "3c:d9:2b:00:00:01"
NAMED = FACTS.subnet[77]


def shard(*names: str, generation: int = 1, ip: IPv4Address | None = None) -> Shard:
    specs = tuple(DeckySpec(name=name, services=("ssh",), ip=ip) for name in names)
    return Shard(generation=generation, deckies=specs)


@pytest.fixture
def engine() -> SimulatedEngine:
    return SimulatedEngine()


@pytest.fixture
def agent(engine: SimulatedEngine, tmp_path: Path) -> Iterator[Agent]:
    agent = real_agent("w1", engine, tmp_path)
    yield agent
    agent.executor.close()


def only(report: ShardReport) -> DeckyState:
    (state,) = report.deckies
    return state


async def test_an_address_is_asked_for_before_it_is_given_before_its_start_and_after_it(agent, engine):
    state = only(await agent.apply(shard("web")))
    assert [state.ip in asked for asked in engine.probed] == [True, True, True]
    assert [len(asked) for asked in engine.probed[1:]] == [1, 1]


async def test_what_runs_is_not_asked_for_again(agent, engine):
    await agent.apply(shard("web"))
    engine.probed.clear()
    await agent.apply(shard("web", generation=2))
    assert engine.probed == []
    await agent.apply(shard("web", "db", generation=3))
    web, db = agent.executor.assignments["web"], agent.executor.assignments["db"]
    assert all(db.ip in asked and web.ip not in asked for asked in engine.probed)


async def test_one_that_somebody_has_is_not_given(agent, engine):
    engine.strangers[NAMED] = STRANGER
    state = only(await agent.apply(shard("web", ip=NAMED)))
    assert (state.phase, state.moved_from, state.moved_because) == (
        DeckyPhase.RUNNING, NAMED, f"{STRANGER} has it",
    )  # fmt: skip
    assert state.ip not in (None, NAMED)
    # the status says so too, and goes on to
    for generation in (1, 2):
        await agent.apply(shard("web", generation=generation, ip=NAMED))
        (told,) = (await agent.status()).deckies
        assert (told.ip, told.moved_from, told.moved_because) == (state.ip, NAMED, f"{STRANGER} has it")


async def test_one_that_another_worker_asks_for_is_left_to_it(agent, engine):
    engine.asking[NAMED] = STRANGER
    state = only(await agent.apply(shard("web", ip=NAMED)))
    assert (state.phase, state.moved_because) == (DeckyPhase.RUNNING, f"{STRANGER} is about to take it")


async def test_of_those_that_others_only_asked_for_what_they_left_is_taken(engine, tmp_path):
    tight = replace(FACTS, ip_range=IPv4Network("10.20.9.8/30"))
    crowded = real_agent("w2", engine, tmp_path / "w2", facts=tight)
    engine.asking = dict.fromkeys(tight.ip_range, STRANGER)
    try:
        report = await crowded.apply(shard("a", "b", "c", "d"))
    finally:
        crowded.executor.close()
    assert report.ok, report
    assert {state.ip for state in report.deckies} == set(tight.ip_range)


async def test_one_that_is_taken_while_its_decky_is_made(agent, engine):
    class Taken(SimulatedEngine):
        def create(self, decky, generation, furnished) -> str:
            if decky.ip == NAMED:
                engine.strangers[NAMED] = STRANGER
            return SimulatedEngine.create(engine, decky, generation, furnished)

    engine.create = Taken().create
    state = only(await agent.apply(shard("web", ip=NAMED)))
    assert state.phase is DeckyPhase.RUNNING
    assert (state.moved_from, state.contested_by) == (NAMED, None)
    assert state.ip != NAMED


async def test_one_that_both_start_at_once(agent, engine):
    starts = []

    def start(name: str) -> None:
        SimulatedEngine.start(engine, name)
        engine.strangers[NAMED] = STRANGER
        starts.append(agent.executor.assignments[name].ip)

    engine.start = start
    state = only(await agent.apply(shard("web", ip=NAMED)))
    assert starts == [NAMED, state.ip]
    assert (state.phase, state.moved_from, state.contested_by) == (DeckyPhase.RUNNING, NAMED, None)


async def test_a_stranger_who_comes_later_is_told_and_makes_way_at_the_next_apply(agent, engine):
    before = only(await agent.apply(shard("web")))
    engine.strangers[before.ip] = STRANGER
    await agent.executor.look_around()
    (told,) = (await agent.status()).deckies
    assert (told.phase, told.ip, told.contested_by) == (DeckyPhase.RUNNING, before.ip, STRANGER)
    after = only(await agent.apply(shard("web", generation=2)))
    assert (after.phase, after.moved_from, after.moved_because) == (
        DeckyPhase.RUNNING, before.ip, f"{STRANGER} has it",
    )  # fmt: skip
    assert after.ip != before.ip
    assert (await agent.status()).deckies[0].contested_by is None


async def test_a_stranger_who_goes_again_moves_nobody(agent, engine):
    before = only(await agent.apply(shard("web")))
    engine.strangers[before.ip] = STRANGER
    await agent.executor.look_around()
    del engine.strangers[before.ip]
    assert only(await agent.apply(shard("web", generation=2))) == before


async def test_our_own_decky_that_is_heard_is_no_stranger(agent, engine):
    before = only(await agent.apply(shard("web")))
    engine.strangers[before.ip] = before.mac
    await agent.executor.look_around()
    assert not agent.executor.contested
    engine.end("web")
    assert only(await agent.apply(shard("web"))) == before


class Everybody(dict):
    """Has every address."""

    def __contains__(self, _address: object) -> bool:
        return True

    def __missing__(self, _address: object) -> str:
        return STRANGER


async def test_who_claims_everything_stops_new_deckies_and_nothing_else(agent, engine):
    await agent.apply(shard("web", "db"))
    kept = agent.executor.assignments["web"]
    engine.probed.clear()
    engine.strangers = Everybody()
    report = await agent.apply(shard("web", "new", generation=2))
    web, new = report.deckies
    assert (web.phase, web.ip) == (DeckyPhase.RUNNING, kept.ip)
    assert new.phase is DeckyPhase.FAILED
    assert "no free address was found for it" in new.error
    assert report.removed == ("db",)
    assert len(engine.probed) == ROUNDS


async def test_a_lan_that_cannot_be_asked_gives_no_address_and_takes_none(agent, engine):
    await agent.apply(shard("web", "db"))
    engine.end("db")

    def probe(*_: object) -> list:
        raise Unavailable("The LAN cannot be asked", "Import an image.")

    engine.probe = probe
    report = await agent.apply(shard("web", "db", "new", generation=2))
    web, db, new = report.deckies
    assert web.phase is DeckyPhase.RUNNING
    assert (db.phase, db.error) == (DeckyPhase.FAILED, "The LAN cannot be asked. Import an image.")
    assert (new.phase, new.container) == (DeckyPhase.FAILED, None)
    assert db.container is not None
    assert report.removed == ()
    del engine.probe
    again = await agent.apply(shard("web", "db", "new", generation=2))
    assert again.ok
    assert again.deckies[1].container == db.container


async def test_deckies_can_be_taken_away_where_the_lan_is_gone(agent):
    def gone() -> NetworkFacts:
        raise ConfigError("lan0, on which the deckies live, is gone")

    agent.executor._facts = gone
    with pytest.raises(ConfigError):
        await agent.apply(shard())  # there never was one
    agent.executor._facts = lambda: FACTS
    await agent.apply(shard("web"))
    agent.executor._facts = gone
    with pytest.raises(ConfigError):
        await agent.apply(shard("web", "db", generation=2))
    assert (await agent.apply(shard(generation=2))).removed == ("web",)


class Killed(BaseException):
    """The agent ends here."""


KILL_POINTS = ("world", "probe", "create_network", "build_image", "create", "start")


@pytest.mark.parametrize("point", KILL_POINTS)
@pytest.mark.parametrize("call", [1, 2])
async def test_killed_between_two_steps_it_keeps_what_it_gave(engine, tmp_path, point, call):
    """A new agent on the same disk and engine ends where one that was never killed does."""
    engine.strangers[NAMED] = STRANGER
    wanted = shard("web", "db", ip=NAMED)
    calls = 0
    real = getattr(engine, point)

    def once(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return real(*arguments)

    setattr(engine, point, once)
    first = real_agent("w1", engine, tmp_path)
    killed = False
    try:
        await first.apply(wanted)
    except Killed:
        killed = True
    finally:
        first.executor.close()
    assert killed is (call == 1 or point not in {"create_network", "build_image"})
    given = {name: (each.ip, each.mac) for name, each in first.executor.assignments.items()}
    setattr(engine, point, real)
    second = real_agent("w1", engine, tmp_path)
    try:
        assert {name: (each.ip, each.mac) for name, each in second.executor.assignments.items()} == given
        report = await second.apply(wanted)
        assert report.ok, report
        ended = {state.name: (state.ip, state.mac) for state in report.deckies}
        assert not given or ended == given
        assert {state.moved_from for state in report.deckies} == {NAMED}
        again = await second.apply(wanted)
        assert again.deckies == report.deckies
    finally:
        second.executor.close()


IPS = frozenset({FACTS.subnet[5], FACTS.subnet[6]})


def test_what_the_probe_prints_is_read():
    claims = parse_claims(b"10.20.0.5 3c:d9:2b:00:00:01 has\n10.20.0.6 3c:d9:2b:00:00:02 asks\n", IPS)
    assert [(str(claim.address), claim.mac, claim.has) for claim in claims] == [
        ("10.20.0.5", "3c:d9:2b:00:00:01", True),
        ("10.20.0.6", "3c:d9:2b:00:00:02", False),
    ]
    assert parse_claims(b"", IPS) == []


@pytest.mark.parametrize(
    "output",
    [
        b"10.20.0.7 3c:d9:2b:00:00:01 has\n",  # was not asked for
        b"10.20.0.5 3c:d9:2b:00:00 has\n",
        b"10.20.0.5 3c:d9:2b:00:00:01\n",
        b"10.20.0.5 3c:d9:2b:00:00:01 had\n",
        b"10.20.0.5 3C:D9:2B:00:00:01 has\n",
        b"\xff\n",
        b"no\n",
    ],
)
def test_other_output_is_refused(output):
    with pytest.raises(RemoteProtocolError):
        parse_claims(output, IPS)
