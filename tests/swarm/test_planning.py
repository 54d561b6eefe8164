"""The planner: the same input gives the same plan, and every plan keeps its promises."""

from __future__ import annotations

import time
from collections import Counter
from ipaddress import IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decnet_agent.deploying.lan import NetworkFacts
from decnet_agent.deploying.relocalising import relocalise
from decnet_core.errors import Conflict, NotFound
from decnet_core.fleet import MAX_DECKIES_PER_SHARD, DeckySpec
from decnet_core.identity import is_host_name
from decnet_master.planning import (
    MAX_FLEET,
    Candidate,
    FleetRequest,
    NoWorkers,
    Placement,
    plan_deploy,
    plan_teardown,
    shards,
)

pytestmark = pytest.mark.long

HOSTS = ["w1", "w2", "w3", "w4"]
LAN = NetworkFacts("lan0", IPv4Network("10.77.0.0/16"))


def workers(*names: str, capacity: int = MAX_DECKIES_PER_SHARD, **labels: str) -> list[Candidate]:
    return [Candidate(name, capacity, labels) for name in names]


WORKERS = workers(*HOSTS)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Placement, ...]:
    """A fleet as some deploys leave it, on some of the hosts."""
    fleet: tuple[Placement, ...] = ()
    for _ in range(draw(st.integers(0, 3))):
        hosts = draw(st.sets(st.sampled_from(HOSTS), min_size=1))
        count = draw(st.integers(0, 12))
        fleet += plan_deploy(FleetRequest(count), workers(*hosts), fleet, draw(st.integers(0, 2**64)))
    return fleet


counts = st.integers(0, 40)
seeds = st.integers(0, 2**64)


@given(fleet=fleets(), count=counts, seed=seeds)
def test_the_same_seed_gives_the_same_plan(fleet: tuple[Placement, ...], count: int, seed: int) -> None:
    once = plan_deploy(FleetRequest(count), WORKERS, fleet, seed)
    again = plan_deploy(FleetRequest(count), WORKERS[::-1], fleet, seed)
    assert once == again


@given(fleet=fleets(), count=counts, seed=seeds)
def test_deckies_differ_in_name_card_and_accounts(fleet: tuple[Placement, ...], count: int, seed: int) -> None:
    whole = (*fleet, *plan_deploy(FleetRequest(count), WORKERS, fleet, seed))
    specs = [placement.decky for placement in whole]
    assert len({spec.name for spec in specs}) == len(specs)
    assert len({spec.mac for spec in specs}) == len(specs)
    assert len({frozenset(spec.accounts) for spec in specs}) == len(specs)


@given(count=counts, seed=seeds)
def test_a_decky_looks_like_a_machine(count: int, seed: int) -> None:
    for placement in plan_deploy(FleetRequest(count), WORKERS, (), seed):
        decky = placement.decky
        assert is_host_name(decky.name)
        assert "decnet" not in decky.name
        assert "decky" not in decky.name
        assert decky.mac is not None
        assert not int(decky.mac[:2], 16) & 0b11, "neither multicast nor locally administered"
        users = [account.user for account in decky.accounts]
        assert 2 <= len(users) <= 3
        assert len(set(users)) == len(users)


@given(fleet=fleets(), count=counts, seed=seeds)
def test_new_deckies_go_to_the_least_loaded(fleet: tuple[Placement, ...], count: int, seed: int) -> None:
    added = plan_deploy(FleetRequest(count), WORKERS, fleet, seed)
    assert len(added) == count
    before = Counter(placement.host for placement in fleet)
    after = before + Counter(placement.host for placement in added)
    grown = [after[host] for host in HOSTS if after[host] > before[host]]
    if grown:
        assert max(grown) <= min(after[host] for host in HOSTS) + 1


@given(fleet=fleets(), seed=seeds)
def test_pins_are_kept(fleet: tuple[Placement, ...], seed: int) -> None:
    added = plan_deploy(FleetRequest(7, hosts=("w3", "w2")), WORKERS, fleet, seed)
    assert {placement.host for placement in added} <= {"w2", "w3"}


def test_a_prefix_numbers_on() -> None:
    first = plan_deploy(FleetRequest(2, name_prefix="till"), WORKERS, (), 1)
    second = plan_deploy(FleetRequest(1, name_prefix="till"), WORKERS, first, 2)
    assert [placement.decky.name for placement in (*first, *second)] == ["till-01", "till-02", "till-03"]


def test_a_decky_that_lingers_lends_its_name_to_nobody() -> None:
    lingering = plan_deploy(FleetRequest(1, name_prefix="till"), WORKERS, (), 1)
    (added,) = plan_deploy(FleetRequest(1, name_prefix="till"), WORKERS, (), 1, lingering=lingering)
    assert added.decky.name == "till-02"
    assert added.decky.mac != lingering[0].decky.mac


def test_a_large_fleet_still_finds_names() -> None:
    added = plan_deploy(FleetRequest(2000), WORKERS, (), 3)
    assert len({placement.decky.name for placement in added}) == 2000


def test_no_worker_and_an_unknown_worker_are_told() -> None:
    with pytest.raises(NoWorkers):
        plan_deploy(FleetRequest(1), [], (), 1)
    with pytest.raises(NotFound, match="w9"):
        plan_deploy(FleetRequest(1, hosts=("w9",)), WORKERS, (), 1)


def test_a_worker_takes_no_more_than_a_shard_holds() -> None:
    full = tuple(
        Placement("w1", DeckySpec(name=f"d-{number}", services=("ssh",))) for number in range(MAX_DECKIES_PER_SHARD)
    )
    with pytest.raises(Conflict, match=r"w1 \(1000 of 1000\)"):
        plan_deploy(FleetRequest(1), workers("w1"), full, 1)


def test_a_fleet_has_an_end() -> None:
    full = tuple(
        Placement(f"w{number % 20}", DeckySpec(name=f"d-{number}", services=("ssh",))) for number in range(MAX_FLEET)
    )
    with pytest.raises(Conflict, match="10001 deckies"):
        plan_deploy(FleetRequest(1), WORKERS, full, 1)


capacities = st.dictionaries(st.sampled_from(HOSTS), st.integers(0, 20), min_size=1)


@given(fleet=fleets(), count=counts, seed=seeds, capacity=capacities)
def test_capacities_are_kept_and_what_is_free_is_used(
    fleet: tuple[Placement, ...], count: int, seed: int, capacity: dict[str, int]
) -> None:
    candidates = [Candidate(name, most) for name, most in capacity.items()]
    before = Counter(placement.host for placement in fleet)
    room = sum(max(0, most - before[name]) for name, most in capacity.items())
    if count > room:
        with pytest.raises(Conflict, match=f"have room for {room}"):
            plan_deploy(FleetRequest(count), candidates, fleet, seed)
        return
    added = plan_deploy(FleetRequest(count), candidates, fleet, seed)
    assert len(added) == count
    after = before + Counter(placement.host for placement in added)
    grown = [name for name in capacity if after[name] > before[name]]
    assert all(after[name] <= capacity[name] for name in grown)
    # Balanced: nobody who has room is two behind one that got some.
    for name, most in capacity.items():
        if after[name] < most:
            assert all(after[other] <= after[name] + 1 for other in grown)


@given(fleet=fleets(), count=counts, seed=seeds)
def test_labels_choose_the_workers(fleet: tuple[Placement, ...], count: int, seed: int) -> None:
    candidates = [*workers("w1", "w2", site="hq", rack="a"), *workers("w3", site="hq"), *workers("w4")]
    both = plan_deploy(FleetRequest(count, labels={"site": "hq", "rack": "a"}), candidates, fleet, seed)
    assert {placement.host for placement in both} <= {"w1", "w2"}
    one = plan_deploy(FleetRequest(count, hosts=("w2", "w3", "w4"), labels={"site": "hq"}), candidates, fleet, seed)
    assert {placement.host for placement in one} <= {"w2", "w3"}


def test_labels_that_nobody_has_are_told() -> None:
    with pytest.raises(NotFound, match="site=hq"):
        plan_deploy(FleetRequest(1, labels={"site": "hq"}), WORKERS, (), 1)
    with pytest.raises(NotFound, match="among w1"):
        plan_deploy(FleetRequest(1, hosts=("w1",), labels={"site": "hq"}), WORKERS, (), 1)


def test_ten_thousand_deckies_on_a_thousand_workers() -> None:
    """The cost must not be that of comparing all with all: ten times as much work takes ten times as long, not a
    hundred. The bound is loose, because others use the machine; an n·m loop over this takes minutes."""
    many = workers(*(f"w{number}" for number in range(1000)), capacity=10)
    begun = time.process_time()
    added = plan_deploy(FleetRequest(10_000), many, (), 1)
    cut = shards(1, [worker.name for worker in many], added)
    assert time.process_time() - begun < 5
    assert {len(shard.deckies) for shard in cut.values()} == {10}
    assert len({placement.decky.name for placement in added}) == 10_000
    assert len({placement.decky.accounts for placement in added}) == 10_000


@pytest.mark.slow  # each example plans ten thousand, and gives them
@settings(max_examples=3)
@given(seed=seeds, half=st.integers(1, 9_999))
def test_no_two_of_ten_thousand_have_one_card_on_whatever_worker_they_run(seed: int, half: int) -> None:
    """Asked for at two times, and given by a hundred workers that were cloned from one, secret and all."""
    many = workers(*(f"w{number}" for number in range(100)), capacity=100)
    first = plan_deploy(FleetRequest(half, name_prefix="web"), many, (), seed)
    fleet = (*first, *plan_deploy(FleetRequest(10_000 - half), many, first, seed))
    assert len({placement.decky.name for placement in fleet}) == 10_000
    given_macs: set[str] = set()
    for shard in shards(1, [worker.name for worker in many], fleet).values():
        specs = {spec.name: spec for spec in shard.deckies}
        given = relocalise(specs, LAN, {}, bytes(32)).assignments
        assert all(given[name].mac == spec.mac for name, spec in specs.items()), "the worker keeps to the master's"
        given_macs |= {each.mac for each in given.values()}
    assert len(given_macs) == 10_000


@given(fleet=fleets())
def test_teardown_takes_what_is_named_and_leaves_the_rest(fleet: tuple[Placement, ...]) -> None:
    names = {placement.decky.name for placement in fleet[::2]}
    kept = plan_teardown(names, fleet)
    expected = fleet[1::2] if names else ()
    assert kept == expected
    assert plan_teardown((), fleet) == ()


def test_teardown_of_a_stranger_is_told() -> None:
    with pytest.raises(NotFound, match="nobody"):
        plan_teardown({"nobody"}, ())


@given(fleet=fleets())
def test_shards_hold_the_whole_fleet_once(fleet: tuple[Placement, ...]) -> None:
    cut = shards(7, HOSTS, fleet)
    assert sorted(cut) == HOSTS
    assert sum(len(shard.deckies) for shard in cut.values()) == len(fleet)
    for host, shard in cut.items():
        assert shard.generation == 7
        assert list(shard.deckies) == [placement.decky for placement in fleet if placement.host == host]
