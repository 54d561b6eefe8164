from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.deploying.lan import NetworkFacts
from decnet_agent.deploying.planning import (
    BuildImage,
    CreateDecky,
    CreateNetwork,
    ExistingDecky,
    PlacedDecky,
    Plan,
    RemoveDecky,
    StartDecky,
    Step,
    World,
    check_generation,
    make_plan,
    network_key,
)
from decnet_agent.deploying.relocalising import Assignment
from decnet_core.errors import Conflict
from decnet_core.fleet import Account, DeckySpec, Shard

SUBNET = IPv4Network("10.77.1.0/28")
FACTS = NetworkFacts("lan0", SUBNET, gateway=SUBNET[1], own=frozenset({SUBNET[2]}))
SEED = bytes(32)
_container_ids = count()
KEYS = {("ssh",): "key-ssh", ("http",): "key-http", ("http", "ssh"): "key-both"}
EMPTY = World(image_keys=KEYS)


class Simulator:
    """What the engine holds, with the planner's steps applied as the Docker room applies them."""

    def __init__(self, world: World = EMPTY) -> None:
        self.network = world.network_key
        self.images = set(world.images)
        self.containers: dict[str, ExistingDecky] = {decky.container: decky for decky in world.deckies}
        self.placed: dict[str, PlacedDecky] = {}

    def world(self) -> World:
        return World(self.network, KEYS, frozenset(self.images), tuple(self.containers.values()))

    def do(self, step: Step, *, torn: bool = False) -> None:
        """Apply a step; `torn` is a crash in the middle of it."""
        match step:
            case CreateNetwork(key):
                self.network = None if torn else key
            case BuildImage(services) if not torn:
                self.images.add(services)
            case RemoveDecky(_, container):
                existing = self.containers.pop(container)
                if torn:  # stopped, not removed
                    self.containers[container] = replace(existing, running=False)
            case CreateDecky(decky):
                assert not any(item.name == decky.spec.name for item in self.containers.values())
                assert self.network is not None
                made = ExistingDecky(
                    decky.spec.name, f"c{next(_container_ids)}", decky.fingerprint, not torn, running=False
                )
                self.containers[made.container] = made
                self.placed[made.container] = decky
            case StartDecky(name) if not torn:
                container, existing = next(item for item in self.containers.items() if item[1].name == name)
                assert existing.complete
                self.containers[container] = replace(existing, running=True)

    def state(self) -> object:
        running = sorted((item.name, item.fingerprint, item.running) for item in self.containers.values())
        return self.network, running


names = st.sampled_from(["web-1", "web-2", "db", "mail", "x"])
specs = st.builds(
    DeckySpec,
    name=names,
    services=st.sampled_from([("ssh",), ("http",), ("ssh", "http"), ("telnet",)]),
    accounts=st.sampled_from([(), (Account(user="root", password="toor"),)]),
    ip=st.none() | st.sampled_from([SUBNET[number] for number in range(16)] + [IPv4Address("192.0.2.1")]),
    mac=st.none() | st.sampled_from(["00:16:3e:00:00:01", "00:16:3e:00:00:02"]),
)
shards = st.lists(specs, max_size=20).map(lambda deckies: Shard(generation=1, deckies=tuple(deckies)))
facts = st.builds(
    NetworkFacts,
    interface=st.just("lan0"),
    subnet=st.just(SUBNET),
    gateway=st.none() | st.just(SUBNET[1]),
    ip_range=st.none() | st.sampled_from([IPv4Network("10.77.1.8/29"), IPv4Network("10.77.1.4/30")]),
    own=st.sampled_from([frozenset(), frozenset({SUBNET[2], SUBNET[9]})]),
)


def plan_of(shard: Shard, network: NetworkFacts, world: World, previous: dict[str, Assignment] | None = None) -> Plan:
    return make_plan(shard, network, world, previous or {}, SEED)


def apply(plan: Plan, simulator: Simulator) -> None:
    for step in plan.steps:
        simulator.do(step)


@given(shards, facts)
def test_applied_twice_changes_nothing(shard, network):
    simulator = Simulator()
    first = plan_of(shard, network, simulator.world())
    apply(first, simulator)
    again = plan_of(shard, network, simulator.world(), dict(first.assignments))
    assert again.steps == ()
    assert again.assignments == first.assignments


@given(shards, shards, facts, st.data())
def test_a_crash_anywhere_converges(before, wanted, network, data):
    simulator = Simulator()
    first = plan_of(before, network, simulator.world())
    apply(first, simulator)
    plan = plan_of(wanted, network, simulator.world(), dict(first.assignments))
    straight, crashed = simulator, Simulator(simulator.world())
    crash_at = data.draw(st.integers(0, len(plan.steps)))
    for step in plan.steps[:crash_at]:
        crashed.do(step)
    if crash_at < len(plan.steps) and data.draw(st.booleans()):
        crashed.do(plan.steps[crash_at], torn=True)
    # the assignments may or may not have reached the disk
    known = dict(data.draw(st.sampled_from([first.assignments, plan.assignments])))
    apply(plan_of(wanted, network, crashed.world(), known), crashed)
    apply(plan, straight)
    assert crashed.state() == straight.state() or not wanted.deckies


@given(
    shards,
    facts,
    st.dictionaries(names, st.builds(Assignment, st.sampled_from(list(SUBNET)), st.just("00:16:3e:00:00:03"))),
)
def test_no_address_twice_and_none_that_is_taken(shard, network, previous):
    plan = plan_of(shard, network, EMPTY, previous)
    addresses = [given.ip for given in plan.assignments.values()]
    macs = [given.mac for given in plan.assignments.values()]
    assert len(set(addresses)) == len(addresses)
    assert len(set(macs)) == len(macs)
    for address in addresses:
        assert address in network.subnet
        assert address not in {
            SUBNET.network_address,
            SUBNET.broadcast_address,
            network.gateway or SUBNET[1],
            *network.own,
        }
    placed = {step.decky.spec.name for step in plan.steps if isinstance(step, CreateDecky)}
    assert placed == plan.assignments.keys()
    assert {spec.name for spec in shard.deckies} == placed | plan.refused.keys()


def test_what_the_master_names_and_fits_is_taken():
    shard = Shard(
        generation=1, deckies=(DeckySpec(name="a", services=("ssh",), ip=SUBNET[9], mac="00:16:3e:00:00:01"),)
    )
    assert plan_of(shard, FACTS, EMPTY).assignments == {"a": Assignment(SUBNET[9], "00:16:3e:00:00:01", SUBNET[9])}


def test_an_address_moves_to_another_decky():
    simulator = Simulator()
    one = Shard(generation=1, deckies=(DeckySpec(name="a", services=("ssh",), ip=SUBNET[9]),))
    first = plan_of(one, FACTS, simulator.world())
    apply(first, simulator)
    other = Shard(generation=2, deckies=(DeckySpec(name="b", services=("ssh",), ip=SUBNET[9]),))
    plan = plan_of(other, FACTS, simulator.world(), dict(first.assignments))
    assert [type(step) for step in plan.steps] == [RemoveDecky, CreateDecky, StartDecky]


def test_a_full_subnet_refuses_the_rest():
    shard = Shard(generation=1, deckies=tuple(DeckySpec(name=f"d{n}", services=("ssh",)) for n in range(13)))
    plan = plan_of(shard, FACTS, EMPTY)
    assert len(plan.assignments) == 12
    assert plan.refused == {"d12": "no address is left for it in 10.77.1.0/28: 12 are free for deckies, 13 are wanted"}


def test_another_network_replaces_all():
    simulator = Simulator()
    shard = Shard(generation=1, deckies=(DeckySpec(name="a", services=("ssh",)),))
    first = plan_of(shard, FACTS, simulator.world())
    apply(first, simulator)
    moved = replace(FACTS, interface="lan1")
    plan = plan_of(shard, moved, simulator.world(), dict(first.assignments))
    assert [type(step) for step in plan.steps] == [RemoveDecky, CreateNetwork, CreateDecky, StartDecky]
    apply(plan, simulator)
    assert simulator.network == network_key(moved)


def test_macs_are_not_told_by_the_name():
    shard = Shard(generation=1, deckies=(DeckySpec(name="a", services=("ssh",)),))
    one, two = (make_plan(shard, FACTS, EMPTY, {}, seed).assignments["a"].mac for seed in (bytes(32), b"x" * 32))
    assert one != two
    assert not one.startswith("02:42")


def test_an_older_generation_is_refused():
    shard = Shard(generation=4)
    check_generation(shard, 4)
    with pytest.raises(Conflict, match="older than 5"):
        check_generation(shard, 5)
