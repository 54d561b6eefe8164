"""The planner: the same input gives the same plan, and every plan keeps its promises."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import Conflict, NotFound
from decnet_core.fleet import MAX_DECKIES_PER_SHARD, DeckySpec
from decnet_core.identity import is_host_name
from decnet_master.planning import FleetRequest, NoWorkers, Placement, plan_deploy, plan_teardown, shards

HOSTS = ["w1", "w2", "w3", "w4"]


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Placement, ...]:
    """A fleet as some deploys leave it, on some of the hosts."""
    fleet: tuple[Placement, ...] = ()
    for _ in range(draw(st.integers(0, 3))):
        hosts = draw(st.sets(st.sampled_from(HOSTS), min_size=1))
        count = draw(st.integers(0, 12))
        fleet += plan_deploy(FleetRequest(count), hosts, fleet, draw(st.integers(0, 2**64)))
    return fleet


counts = st.integers(0, 40)
seeds = st.integers(0, 2**64)


@given(fleet=fleets(), count=counts, seed=seeds)
def test_the_same_seed_gives_the_same_plan(fleet: tuple[Placement, ...], count: int, seed: int) -> None:
    once = plan_deploy(FleetRequest(count), HOSTS, fleet, seed)
    again = plan_deploy(FleetRequest(count), set(HOSTS), fleet, seed)
    assert once == again


@given(fleet=fleets(), count=counts, seed=seeds)
def test_deckies_differ_in_name_card_and_accounts(fleet: tuple[Placement, ...], count: int, seed: int) -> None:
    whole = (*fleet, *plan_deploy(FleetRequest(count), HOSTS, fleet, seed))
    specs = [placement.decky for placement in whole]
    assert len({spec.name for spec in specs}) == len(specs)
    assert len({spec.mac for spec in specs}) == len(specs)
    assert len({frozenset(spec.accounts) for spec in specs}) == len(specs)


@given(count=counts, seed=seeds)
def test_a_decky_looks_like_a_machine(count: int, seed: int) -> None:
    for placement in plan_deploy(FleetRequest(count), HOSTS, (), seed):
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
    added = plan_deploy(FleetRequest(count), HOSTS, fleet, seed)
    assert len(added) == count
    before = Counter(placement.host for placement in fleet)
    after = before + Counter(placement.host for placement in added)
    grown = [after[host] for host in HOSTS if after[host] > before[host]]
    if grown:
        assert max(grown) <= min(after[host] for host in HOSTS) + 1


@given(fleet=fleets(), seed=seeds)
def test_pins_are_kept(fleet: tuple[Placement, ...], seed: int) -> None:
    added = plan_deploy(FleetRequest(7, hosts=("w3", "w2")), HOSTS, fleet, seed)
    assert {placement.host for placement in added} <= {"w2", "w3"}


def test_a_prefix_numbers_on() -> None:
    first = plan_deploy(FleetRequest(2, name_prefix="till"), HOSTS, (), 1)
    second = plan_deploy(FleetRequest(1, name_prefix="till"), HOSTS, first, 2)
    assert [placement.decky.name for placement in (*first, *second)] == ["till-01", "till-02", "till-03"]


def test_a_decky_that_lingers_lends_its_name_to_nobody() -> None:
    lingering = plan_deploy(FleetRequest(1, name_prefix="till"), HOSTS, (), 1)
    (added,) = plan_deploy(FleetRequest(1, name_prefix="till"), HOSTS, (), 1, lingering=lingering)
    assert added.decky.name == "till-02"
    assert added.decky.mac != lingering[0].decky.mac


def test_a_large_fleet_still_finds_names() -> None:
    added = plan_deploy(FleetRequest(2000), HOSTS, (), 3)
    assert len({placement.decky.name for placement in added}) == 2000


def test_no_worker_and_an_unknown_worker_are_told() -> None:
    with pytest.raises(NoWorkers):
        plan_deploy(FleetRequest(1), [], (), 1)
    with pytest.raises(NotFound, match="w9"):
        plan_deploy(FleetRequest(1, hosts=("w9",)), HOSTS, (), 1)


def test_a_worker_takes_no_more_than_a_shard_holds() -> None:
    full = tuple(
        Placement("w1", DeckySpec(name=f"d-{number}", services=("ssh",))) for number in range(MAX_DECKIES_PER_SHARD)
    )
    with pytest.raises(Conflict):
        plan_deploy(FleetRequest(1), ["w1"], full, 1)


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
