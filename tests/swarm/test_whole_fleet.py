"""Planning a declared fleet: what is missing comes, what differs changes, and the rest stays."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import Conflict, NotFound
from decnet_master.planning import (
    Candidate,
    DeckyGroup,
    FleetRequest,
    NoWorkers,
    Placement,
    plan_deploy,
    plan_fleet,
    plan_id,
    seed_for,
)

pytestmark = pytest.mark.long

HOSTS = ("w1", "w2", "w3")
SITES = {"w1": "hq", "w2": "hq", "w3": "lab"}
WORKERS = [Candidate(name, 30, {"site": SITES[name]}) for name in HOSTS]
SERVICES = (("ssh",), ("ssh", "http"), ("ftp",))

seeds = st.integers(0, 2**64)


@st.composite
def groups(draw: st.DrawFn) -> tuple[DeckyGroup, ...]:
    names = draw(st.lists(st.sampled_from([f"d-{number}" for number in range(20)]), unique=True, max_size=20))
    found = []
    while names:
        size = draw(st.integers(1, len(names)))
        hosts = tuple(draw(st.sets(st.sampled_from(HOSTS), max_size=2)))
        labels = draw(st.sampled_from([{}, {"site": "hq"}, {"site": "lab"}])) if not hosts else {}
        found.append(DeckyGroup(tuple(names[:size]), draw(st.sampled_from(SERVICES)), hosts, labels))
        names = names[size:]
    return tuple(found)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Placement, ...]:
    """A fleet that another file and a deploy left."""
    first = plan_fleet(draw(groups()), WORKERS, (), draw(seeds)).added
    more = plan_deploy(FleetRequest(draw(st.integers(0, 5))), WORKERS, first, draw(seeds))
    return (*first, *more)


@given(fleet=fleets(), wanted=groups(), seed=seeds, prune=st.booleans())
def test_applied_once_it_is_declared_and_twice_changes_nothing(
    fleet: tuple[Placement, ...], wanted: tuple[DeckyGroup, ...], seed: int, prune: bool
) -> None:
    change = plan_fleet(wanted, WORKERS, fleet, seed, prune=prune)
    assert change == plan_fleet(wanted, WORKERS[::-1], fleet, seed, prune=prune)
    after = change.of(fleet)
    found = {placement.decky.name: placement for placement in after}
    assert len(found) == len(after)
    declared = {name: group for group in wanted for name in group.names}
    assert all(set(found[name].decky.services) == set(group.services) for name, group in declared.items())
    undeclared = {placement.decky.name for placement in fleet} - declared.keys()
    assert found.keys() == declared.keys() | (set() if prune else undeclared)
    assert {placement.decky.name for placement in change.removed} == (undeclared if prune else set())
    assert change.kept + len(change.changed) + len(change.added) == len(after)

    again = plan_fleet(wanted, WORKERS, after, seed + 1, prune=prune)
    assert (again.added, again.changed, again.removed) == ((), (), ())
    assert again.kept == len(after)


@given(fleet=fleets(), wanted=groups(), seed=seeds, prune=st.booleans())
def test_nothing_that_stays_is_moved_or_gets_another_face(
    fleet: tuple[Placement, ...], wanted: tuple[DeckyGroup, ...], seed: int, prune: bool
) -> None:
    after = {one.decky.name: one for one in plan_fleet(wanted, WORKERS, fleet, seed, prune=prune).of(fleet)}
    for before in fleet:
        now = after.get(before.decky.name)
        if now is not None:
            assert now.host == before.host
            assert (now.decky.mac, now.decky.accounts) == (before.decky.mac, before.decky.accounts)


@given(fleet=fleets(), wanted=groups(), seed=seeds)
def test_conditions_and_capacity_hold_for_what_is_added(
    fleet: tuple[Placement, ...], wanted: tuple[DeckyGroup, ...], seed: int
) -> None:
    change = plan_fleet(wanted, WORKERS, fleet, seed)
    declared = {name: group for group in wanted for name in group.names}
    for placement in change.added:
        group = declared[placement.decky.name]
        assert not group.hosts or placement.host in group.hosts
        assert group.labels.items() <= {"site": SITES[placement.host]}.items()
    load = Counter(placement.host for placement in change.of(fleet))
    assert all(load[worker.name] <= worker.capacity for worker in WORKERS)
    macs = [placement.decky.mac for placement in change.of(fleet)]
    assert len(set(macs)) == len(macs)


def test_what_is_pruned_makes_room() -> None:
    one = [Candidate("w1", 2)]
    fleet = plan_fleet([DeckyGroup(("a", "b"))], one, (), 1).added
    with pytest.raises(Conflict, match=r"w1 \(2 of 2\)"):
        plan_fleet([DeckyGroup(("c", "d"))], one, fleet, 1)
    change = plan_fleet([DeckyGroup(("c", "d"))], one, fleet, 1, prune=True)
    assert [placement.decky.name for placement in change.of(fleet)] == ["c", "d"]


def test_who_would_be_elsewhere_now_is_told_and_stays() -> None:
    fleet = plan_fleet([DeckyGroup(("a", "b", "c"), hosts=("w1",))], WORKERS, (), 1).added
    wanted = [DeckyGroup(("a",), hosts=("w2",)), DeckyGroup(("b",), labels={"site": "lab"}), DeckyGroup(("c",))]
    change = plan_fleet(wanted, WORKERS, fleet, 1)
    assert [(stray.name, stray.host) for stray in change.strays] == [("a", "w1"), ("b", "w1")]
    assert change.of(fleet) == fleet
    gone = plan_fleet(wanted, WORKERS[1:], fleet, 1)
    assert [(stray.name, stray.why) for stray in gone.strays] == [(name, "w1 is no active worker") for name in "abc"]


def test_a_name_that_lingers_comes_back_where_it_was() -> None:
    lingering = plan_fleet([DeckyGroup(("a",), hosts=("w3",))], WORKERS, (), 1).added
    (back,) = plan_fleet([DeckyGroup(("a",))], WORKERS, (), 1, lingering).added
    assert back.host == "w3"
    assert back.decky.mac != lingering[0].decky.mac
    (elsewhere,) = plan_fleet([DeckyGroup(("a",), hosts=("w2",))], WORKERS, (), 1, lingering).added
    assert elsewhere.host == "w2"


def test_what_cannot_be_planned_is_told() -> None:
    with pytest.raises(Conflict, match="more than once: a"):
        plan_fleet([DeckyGroup(("a",)), DeckyGroup(("a", "b"))], WORKERS, (), 1)
    with pytest.raises(NoWorkers):
        plan_fleet([DeckyGroup(("a",))], (), (), 1)
    with pytest.raises(NotFound, match="w9"):
        plan_fleet([DeckyGroup(("a",), hosts=("w9",))], WORKERS, (), 1)
    fleet = plan_fleet([DeckyGroup(("a",))], WORKERS, (), 1).added
    assert plan_fleet([DeckyGroup(("a",))], (), fleet, 1).of(fleet) == fleet, "who adds nothing needs no worker"


def test_ten_thousand_declared_one_by_one() -> None:
    many = [Candidate(f"w{number}", 10) for number in range(1000)]
    wanted = [DeckyGroup((f"d-{number}",), hosts=(f"w{number % 1000}",)) for number in range(10_000)]
    change = plan_fleet(wanted, many, (), 1)
    assert set(Counter(placement.host for placement in change.added).values()) == {10}


def test_an_id_names_one_plan() -> None:
    fleet = plan_fleet([DeckyGroup(("a", "b"))], WORKERS, (), 1).added
    plans = [
        plan_fleet([DeckyGroup(("a", "b"))], WORKERS, (), 1),
        plan_fleet([DeckyGroup(("a", "b"))], WORKERS, (), 2),
        plan_fleet([DeckyGroup(("a", "b"), ("ftp",))], WORKERS, fleet, 1),
        plan_fleet([DeckyGroup(("a",))], WORKERS, fleet, 1, prune=True),
        plan_fleet([DeckyGroup(("a",))], WORKERS, fleet, 1),
    ]
    ids = [plan_id(plan) for plan in plans]
    assert len(set(ids)) == len(ids)
    assert plan_id(plan_fleet([DeckyGroup(("a", "b"))], WORKERS, (), 1)) == ids[0]


def test_a_seed_follows_from_request_generation_and_secret() -> None:
    first = seed_for("secret", 7, "request")
    assert first == seed_for("secret", 7, "request")
    others = {seed_for("other", 7, "request"), seed_for("secret", 8, "request"), seed_for("secret", 7, "another")}
    assert len({first, *others}) == 4
    assert 0 <= first < 2**64
