"""Mutations: what the file leaves open changes, one service at a time, seldom, and never under a visitor."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import Conflict, NotFound
from decnet_core.fleet import DeckyPhase, DeckySpec, DeckyState, ShardReport
from decnet_master.fleet_file import FleetFileError, parse_fleet
from decnet_master.journal.reader import Position
from decnet_master.planning import DeckyGroup, MutationRequest, Placement, plan_fleet, plan_id, plan_mutation
from decnet_master.planning.mutation import MIN_AGE
from decnet_master.store import Load, NewEvent, Store
from decnet_master.swarmctl.changes import IDLE, Changes
from decnet_master.swarmctl.fleet_messages import ApplyRequest, GroupRequest, MutateRequest
from decnet_master.swarmctl.lifecycle import mutate_one
from decnet_master.swarmctl.messages import DeployRequest
from decnet_master.terms import Terms
from tests.store.samples import an_event
from tests.swarm.test_changes import Away, Busy, join

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
FILE = DeckyGroup(("a", "b", "c", "d"), ("ssh",), sometimes=("telnet", "http"))


def placed(name: str, *services: str, sometimes: tuple[str, ...] = ("http", "telnet"), **more: datetime) -> Placement:
    spec = DeckySpec(name=name, services=services or ("ssh",), mac="00:16:3e:00:00:01", seed=7)
    return Placement("w1", spec, Terms(sometimes, more.get("at")))


FLEET = tuple(placed(name) for name in "abcd")


@given(seed=st.integers(0, 2**64), count=st.integers(1, 5))
def test_each_that_changes_gains_or_loses_one_and_stays_what_it_is(seed: int, count: int) -> None:
    fleet = (*FLEET[:2], placed("c", "ssh", "telnet"), placed("d", "ssh", "http", "telnet"))
    request = MutationRequest(count)
    change = plan_mutation(request, {"w1"}, fleet, (), seed=seed, now=NOW)
    assert change == plan_mutation(request, {"w1"}, fleet[::-1], (), seed=seed, now=NOW)
    assert len(change.changed) == min(count, 4)
    assert (change.added, change.removed, change.allowed) == ((), (), ())
    before = {placement.decky.name: placement for placement in fleet}
    for after in change.changed:
        was = before[after.decky.name]
        assert len(set(was.decky.services) ^ set(after.decky.services)) == 1
        assert "ssh" in after.decky.services, "what the file always wants is never taken"
        assert set(after.decky.services) <= {"ssh", "http", "telnet"}
        assert after.decky.model_copy(update={"services": was.decky.services}) == was.decky
        assert (after.host, after.terms) == (was.host, Terms(was.terms.sometimes, NOW))
    # and the file that allows it is content
    assert not plan_fleet([FILE], [], change.of(fleet), seed).hosts


def test_seeds_draw_different_deckies_and_services() -> None:
    changes = [plan_mutation(MutationRequest(), {"w1"}, FLEET, (), seed=seed, now=NOW).changed for seed in range(50)]
    assert {len(changed) for changed in changes} == {1}
    assert {changed[0].decky.name for changed in changes} == set("abcd")
    assert {changed[0].decky.services for changed in changes} == {("ssh", "telnet"), ("ssh", "http")}


@pytest.mark.parametrize(
    ("decky", "active", "in_use", "why"),
    [
        (placed("a", sometimes=()), {"w1"}, (), "fixed"),
        (placed("a"), {"w2"}, (), "not active"),
        (placed("a"), {"w1"}, {("w1", "a")}, "in use"),
        (placed("a", at=NOW - MIN_AGE + timedelta(seconds=1)), {"w1"}, (), "7 days"),
    ],
)
def test_who_is_held_is_not_drawn_and_refused_by_name(
    decky: Placement, active: set[str], in_use: set[tuple[str, str]], why: str
) -> None:
    with pytest.raises(Conflict, match=f"a does not mutate now: .*{why}"):
        plan_mutation(MutationRequest(names=("a",)), active, [decky], in_use, seed=1, now=NOW)
    with pytest.raises(Conflict, match=f"No decky may mutate now: 1 .*{why}"):
        plan_mutation(MutationRequest(), active, [decky], in_use, seed=1, now=NOW)
    forced = MutationRequest(names=("a",), force=True)
    if in_use:  # it lifts this rule, and no other
        assert plan_mutation(forced, active, [decky], in_use, seed=1, now=NOW).changed
    else:
        with pytest.raises(Conflict):
            plan_mutation(forced, active, [decky], in_use, seed=1, now=NOW)
    free = Placement("w2" if active == {"w2"} else "w1", placed("z").decky, placed("z").terms)
    request = MutationRequest(count=9)
    drawn = plan_mutation(request, active, [decky, free], in_use, seed=1, now=NOW)
    assert [placement.decky.name for placement in drawn.changed] == ["z"]


def test_of_those_named_all_change_or_none() -> None:
    old = placed("b", at=NOW - MIN_AGE)
    request = MutationRequest(names=("a", "b"))
    both = plan_mutation(request, {"w1"}, [placed("a"), old], (), seed=1, now=NOW)
    assert len(both.changed) == 2
    with pytest.raises(Conflict, match="b does not"):
        plan_mutation(request, {"w1"}, [placed("a"), old], {("w1", "b")}, seed=1, now=NOW)
    with pytest.raises(NotFound, match="nobody"):
        plan_mutation(MutationRequest(names=("nobody",)), {"w1"}, FLEET, (), seed=1, now=NOW)


def test_a_file_takes_back_only_what_it_no_longer_allows() -> None:
    fleet = [placed("a", "ssh", "http", "telnet", at=NOW)]
    group = DeckyGroup(("a",), ("ssh",), sometimes=("telnet",))
    change = plan_fleet([group], [], fleet, 1)
    assert change.changed == (placed("a", "ssh", "telnet", sometimes=("telnet",), at=NOW),)
    pinned = plan_fleet([DeckyGroup(("a",), ("ssh",))], [], fleet, 1)
    assert pinned.changed == (placed("a", "ssh", sometimes=(), at=NOW),)
    # one that changes only what may be tells no worker, and has an id of its own
    wider = plan_fleet([DeckyGroup(("a",), ("ssh",), sometimes=("telnet", "http", "ftp"))], [], fleet, 1)
    assert (wider.hosts, len(wider.allowed), wider.kept) == (frozenset(), 1, 1)
    same = plan_fleet([DeckyGroup(("a",), ("ssh",), sometimes=("http", "telnet"))], [], fleet, 1)
    assert (same.hosts, same.allowed) == (frozenset(), ())
    assert plan_id(wider) != plan_id(same)


def test_the_file_says_what_it_leaves_open() -> None:
    toml = b'[[decky]]\nname = "a"\nsometimes = ["telnet"]\n[[group]]\nprefix = "g"\ncount = 1\nsometimes = ["http"]\n'
    ini = b"[a]\nsometimes = telnet\n[g]\ncount = 1\nsometimes = http\n"
    assert parse_fleet(toml, "x.toml") == parse_fleet(ini, "x.ini")
    assert [group.sometimes for group in parse_fleet(toml, "x.toml")] == [("telnet",), ("http",)]
    with pytest.raises(FleetFileError, match="named twice"):
        parse_fleet(b'[[decky]]\nname = "a"\nservices = ["ssh"]\nsometimes = ["ssh"]\n', "x.toml")


async def applied(changes: Changes, *sometimes: str) -> None:
    await changes.begin(ApplyRequest(groups=(GroupRequest(names=("a", "b"), sometimes=sometimes),)))


async def test_a_mutation_is_a_generation_and_survives_the_file_and_other_changes(store: Store) -> None:
    await join(store, "w1", "w2")
    changes = Changes(store, Busy(), "secret")  # type: ignore[arg-type]
    await applied(changes)
    before = await store.fleet.current()
    for decky in before:
        running = DeckyState(name=decky.spec.name, phase=DeckyPhase.RUNNING)
        await store.fleet.record(ShardReport(host=decky.host, generation=decky.generation, deckies=(running,)))
    with pytest.raises(Conflict, match="2 fixed"):
        await changes.look(MutateRequest())
    with pytest.raises(Conflict, match="2 fixed"):
        await changes.begin(MutateRequest())
    begun = await changes.begin(ApplyRequest(groups=(GroupRequest(names=("a", "b"), sometimes=("telnet",)),)))
    assert begun.hosts == (), "what may be concerns no worker"
    assert [decky.generation for decky in await store.fleet.current()] == [decky.generation for decky in before]

    request = MutateRequest(names=("a",))
    _, shown = await changes.look(request)
    begun = await changes.begin(request.model_copy(update={"plan": plan_id(shown)}))
    mutated = {decky.spec.name: decky for decky in await store.fleet.current()}
    assert mutated["a"].spec.services == ("ssh", "telnet")
    assert mutated["a"].generation == begun.generation
    assert [host.name for host in begun.hosts] == [mutated["a"].host]
    at = mutated["a"].terms.mutated_at
    assert at is not None

    with pytest.raises(Conflict, match="7 days"):
        await changes.begin(MutateRequest(names=("a",), force=True))
    await applied(changes, "telnet")
    await changes.begin(DeployRequest(count=1))
    after = {decky.spec.name: decky for decky in await store.fleet.current()}
    assert after["a"].spec == mutated["a"].spec
    assert after["a"].terms == Terms(("telnet",), at)
    assert after["b"].terms == Terms(("telnet",))
    await applied(changes)
    pinned = {decky.spec.name: decky for decky in await store.fleet.current()}
    assert pinned["a"].spec.services == ("ssh",)
    assert pinned["a"].terms == Terms((), at), "it changed then all the same"


async def test_a_visitor_of_the_last_day_keeps_a_decky_as_it_is(store: Store) -> None:
    await join(store, "w1")
    changes = Changes(store, Busy(), "secret")  # type: ignore[arg-type]
    await applied(changes, "telnet")
    now, start = datetime.now(UTC), await store.ingest.position()
    touched = [("a", now), ("b", now - IDLE - timedelta(hours=1)), ("b", None)]
    events = [
        NewEvent(an_event(number, decky=decky, session="s" if at else None), "w1", at or now)
        for number, (decky, at) in enumerate(touched)
    ]
    await store.ingest.append(Load.of(events), [], Position(start.segment + 1, 0), start)
    assert await store.fleet.in_use(now - IDLE) == {("w1", "a")}
    with pytest.raises(Conflict, match="a does not mutate now: in use"):
        await changes.look(MutateRequest(names=("a",)))
    _, change = await changes.look(MutateRequest(count=2))
    assert [placement.decky.name for placement in change.changed] == ["b"]
    assert len((await changes.look(MutateRequest(count=2, force=True)))[1].changed) == 2


async def test_one_mutates_by_itself_when_none_has_for_long(store: Store) -> None:
    await join(store, "w1")
    changes = Changes(store, Away(), "secret")  # type: ignore[arg-type]
    assert await mutate_one(store, changes, timedelta(0)) == (), "there is none"
    await applied(changes)
    assert await mutate_one(store, changes, timedelta(0)) == (), "none is left open"
    await applied(changes, "telnet")
    (first,) = await mutate_one(store, changes, timedelta(days=1))
    assert await mutate_one(store, changes, timedelta(days=1)) == (), "one has"
    (second,) = await mutate_one(store, changes, timedelta(0))
    assert {first, second} == {"a", "b"}
    assert await mutate_one(store, changes, timedelta(0)) == (), "both did so lately"
    assert {decky.spec.services for decky in await store.fleet.current()} == {("ssh", "telnet")}
