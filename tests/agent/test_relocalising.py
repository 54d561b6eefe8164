"""The pure part of relocalising: which decky gets which address and MAC."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.deploying.lan import MAX_CANDIDATES, AddressRange, Claim, NetworkFacts
from decnet_agent.deploying.relocalising import Assignment, relocalise
from decnet_core.fleet import DeckySpec

SUBNET = IPv4Network("10.77.1.0/27")
GATEWAY, OWN, NAME_SERVER, NEIGHBOUR = SUBNET[1], SUBNET[2], SUBNET[3], SUBNET[20]
POOL = AddressRange(SUBNET[24], SUBNET[27])
FACTS = NetworkFacts(
    "lan0",
    SUBNET,
    gateway=GATEWAY,
    own=frozenset({OWN}),
    name_servers=frozenset({NAME_SERVER}),
    excluded=(POOL,),
    neighbours=frozenset({NEIGHBOUR}),
)
SEED = bytes(range(32))
STRANGER = "3c:d9:2b:00:00:01"
NEVER = {SUBNET[0], SUBNET[31], GATEWAY, OWN, NAME_SERVER, *(SUBNET[number] for number in range(24, 28))}
FREE = 32 - len(NEVER)

addresses = st.sampled_from([*SUBNET, IPv4Address("192.0.2.1"), IPv4Address("10.77.2.5")])
macs = st.sampled_from([f"00:16:3e:00:00:{number:02x}" for number in range(6)])
names = st.sampled_from([f"d{number}" for number in range(30)])
fleets = st.dictionaries(names, st.tuples(st.none() | addresses, st.none() | macs), max_size=30).map(
    lambda drawn: {name: DeckySpec(name=name, services=("ssh",), ip=ip, mac=mac) for name, (ip, mac) in drawn.items()}
)
held = st.dictionaries(names, st.builds(Assignment, addresses, macs, st.none() | addresses), max_size=30)
held_once = held.map(lambda drawn: {each.ip: (name, each) for name, each in drawn.items()}).map(
    lambda drawn: dict(drawn.values())
)
claims = st.lists(st.builds(Claim, st.sampled_from(list(SUBNET)), macs, st.booleans()), max_size=20)
seeds = st.binary(min_size=32, max_size=32)


def fleet(*wanted: str | None) -> dict[str, DeckySpec]:
    return {f"d{n}": DeckySpec(name=f"d{n}", services=("ssh",), ip=ip) for n, ip in enumerate(wanted)}


@given(fleets, held, seeds, claims)
def test_each_has_its_own_address_and_none_has_somebody_elses(specs, previous, seed, heard):
    found = relocalise(specs, FACTS, previous, seed, heard)
    given_ips = [each.ip for each in found.assignments.values()]
    given_macs = [each.mac for each in found.assignments.values()]
    assert len(set(given_ips)) == len(given_ips)
    assert len(set(given_macs)) == len(given_macs)
    taken = NEVER | {claim.address for claim in heard}
    assert all(address in SUBNET and address not in taken for address in given_ips)
    assert found.assignments.keys() | found.refused.keys() == specs.keys()
    assert not found.assignments.keys() & found.refused.keys()
    # only a LAN without a free address refuses, and then it has none
    assert not found.refused or set(given_ips) | taken == set(SUBNET)


@given(fleets, held, seeds, claims)
def test_equal_inputs_give_equal_results_and_again_the_same(specs, previous, seed, heard):
    found = relocalise(specs, FACTS, previous, seed, heard)
    assert relocalise(specs, FACTS, previous, seed, heard) == found
    again = relocalise(specs, FACTS, found.assignments, seed, heard)
    assert again.assignments == found.assignments


@given(fleets, held, seeds, claims)
def test_what_differs_is_told_with_its_reason(specs, previous, seed, heard):
    for name, each in relocalise(specs, FACTS, previous, seed, heard).assignments.items():
        before = previous.get(name)
        wanted = specs[name].ip or (None if before is None else before.ip)
        if wanted in (None, each.ip):
            assert (each.moved_from, each.moved_because) == (None, None)
        else:
            assert each.moved_from == wanted
            assert each.moved_because


@given(fleets, seeds, st.data())
def test_an_address_stays_while_it_fits(specs, seed, data):
    first = relocalise(specs, FACTS, {}, seed)
    leaving = data.draw(st.sets(st.sampled_from(sorted(specs)), max_size=5)) if specs else set()
    rest = {name: spec for name, spec in specs.items() if name not in leaving}
    second = relocalise(rest, FACTS, first.assignments, seed)
    for name in rest.keys() & first.assignments.keys():
        assert second.assignments[name].ip == first.assignments[name].ip


@given(fleets, held_once, seeds, claims)
def test_a_decky_moves_when_it_is_told_to_or_must_and_never_for_an_opportunity(specs, previous, seed, heard):
    found = relocalise(specs, FACTS, previous, seed, heard).assignments
    holders = {each.ip: name for name, each in found.items()}
    unusable = NEVER | {claim.address for claim in heard}
    for name in found.keys() & previous.keys():
        before, now, wanted = previous[name], found[name], specs[name].ip
        told = wanted not in (None, before.named, before.ip)
        must = before.ip in unusable or before.ip not in SUBNET
        if wanted != before.ip:
            must |= specs[holders.get(before.ip, name)].ip == before.ip  # it was named for another
        assert now.ip == before.ip or (told and now.ip == wanted) or must
        if told and now.ip != wanted:
            assert wanted in unusable or wanted not in SUBNET or specs[holders[wanted]].ip == wanted
        assert now.named == wanted


def test_a_fleet_made_for_this_host_is_left_untouched():
    wanted = [str(SUBNET[number]) for number in (9, 5, 30, int(NEIGHBOUR) - int(SUBNET[0]))]
    found = relocalise(fleet(*wanted), FACTS, {}, SEED)
    assert [str(each.ip) for each in found.assignments.values()] == wanted
    assert all(each.moved_from is None for each in found.assignments.values())


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("192.0.2.7", "it lies outside 10.77.1.0/27"),
        (str(SUBNET[0]), "it is the network's own"),
        (str(SUBNET[31]), "it is the network's own"),
        (str(GATEWAY), "it is the router's"),
        (str(OWN), "it is this worker's own"),
        (str(NAME_SERVER), "it is a name server's"),
        (str(SUBNET[25]), "this worker's settings exclude it"),
        (str(SUBNET[9]), f"{STRANGER} has it"),
        (str(SUBNET[10]), f"{STRANGER} is about to take it"),
    ],
)
def test_one_that_does_not_fit_is_replaced_and_says_why(wanted, reason):
    heard = [Claim(SUBNET[9], STRANGER), Claim(SUBNET[10], STRANGER, has=False)]
    assert relocalise(fleet(wanted), FACTS, {}, SEED, heard).assignments["d0"].moved_because == reason


def test_two_that_want_the_same():
    first, second = relocalise(fleet(str(SUBNET[9]), str(SUBNET[9])), FACTS, {}, SEED).assignments.values()
    assert (first.ip, first.moved_from) == (SUBNET[9], None)
    assert (second.moved_from, second.moved_because) == (SUBNET[9], "d0 has it")


def test_one_that_was_moved_does_not_come_back_by_itself():
    specs = fleet(str(SUBNET[9]))
    moved = relocalise(specs, FACTS, {}, SEED, [Claim(SUBNET[9], STRANGER)]).assignments
    assert relocalise(specs, FACTS, moved, SEED).assignments == moved
    # until it has to move again, or the master names another one
    lost = relocalise(specs, FACTS, moved, SEED, [Claim(moved["d0"].ip, STRANGER)]).assignments
    assert (lost["d0"].ip, lost["d0"].moved_from) == (SUBNET[9], None)
    assert relocalise(fleet(str(SUBNET[10])), FACTS, moved, SEED).assignments["d0"].ip == SUBNET[10]


def test_one_that_was_moved_for_another_decky_stays_when_that_goes():
    specs = fleet(str(SUBNET[9]), str(SUBNET[9]))
    both = relocalise(specs, FACTS, {}, SEED).assignments
    alone = relocalise({"d1": specs["d1"]}, FACTS, both, SEED).assignments
    assert alone == {"d1": both["d1"]}
    # named anew, it comes: after another one or none, or when it was torn down
    unnamed = relocalise({"d1": specs["d1"].model_copy(update={"ip": None})}, FACTS, alone, SEED).assignments
    assert unnamed["d1"].ip == both["d1"].ip
    for previous in (unnamed, {}):
        assert relocalise({"d1": specs["d1"]}, FACTS, previous, SEED).assignments["d1"].ip == SUBNET[9]


def test_a_newcomer_takes_no_address_from_one_that_was_told_to_have_it():
    had = relocalise({"d1": fleet(None, str(SUBNET[9]))["d1"]}, FACTS, {}, SEED).assignments
    now = relocalise(fleet(str(SUBNET[9]), str(SUBNET[9])), FACTS, had, SEED).assignments
    assert (now["d1"].ip, now["d0"].moved_because) == (SUBNET[9], "d1 has it")


def test_an_order_takes_an_address_from_one_that_has_it_by_chance():
    had = relocalise({"d1": fleet(None, None)["d1"]}, FACTS, {}, SEED).assignments
    now = relocalise(fleet(str(had["d1"].ip), None), FACTS, had, SEED).assignments
    assert now["d0"].ip == had["d1"].ip
    assert (now["d1"].moved_from, now["d1"].moved_because) == (had["d1"].ip, "d0 has it")


def test_a_held_address_that_a_stranger_took_is_given_up():
    before = {"d0": Assignment(SUBNET[9], "00:16:3e:00:00:09")}
    now = relocalise(fleet(None), FACTS, before, SEED, [Claim(SUBNET[9], STRANGER)]).assignments["d0"]
    assert now.ip != SUBNET[9]
    assert (now.mac, now.moved_from, now.moved_because) == ("00:16:3e:00:00:09", SUBNET[9], f"{STRANGER} has it")


def test_a_mac_that_was_heard_is_not_taken():
    (first,) = relocalise(fleet(None), FACTS, {}, SEED).assignments.values()
    (other,) = relocalise(fleet(None), FACTS, {}, SEED, [Claim(SUBNET[30], first.mac)]).assignments.values()
    assert other.mac != first.mac


def test_a_full_subnet_says_how_many_are_free():
    found = relocalise(fleet(*[None] * (FREE + 2)), FACTS, {}, SEED)
    assert len(found.assignments) == FREE
    why = f"no address is left for it in 10.77.1.0/27: {FREE} are free for deckies, {FREE + 2} are wanted"
    assert list(found.refused.values()) == [why, why]


def test_the_range_bounds_what_nobody_named():
    bounded = replace(FACTS, ip_range=IPv4Network("10.77.1.8/29"))
    found = relocalise(fleet(str(SUBNET[20]), *[None] * 9), bounded, {}, SEED)
    assert found.assignments["d0"].ip == SUBNET[20]
    assert {each.ip for name, each in found.assignments.items() if name != "d0"} == set(bounded.ip_range)
    assert list(found.refused.values()) == [
        "no address is left for it in 10.77.1.8/29: 8 are free for deckies, 10 are wanted"
    ]


@pytest.mark.parametrize("subnet", ["10.77.1.0/31", "10.77.1.0/32"])
def test_a_subnet_without_room_refuses_all(subnet):
    found = relocalise(fleet(None, "10.77.1.0"), NetworkFacts("lan0", IPv4Network(subnet)), {}, SEED)
    assert not found.assignments
    assert set(found.refused.values()) == {f"{subnet} has no room for a decky"}


def test_a_slash_30_has_room_for_one():
    found = relocalise(fleet(None, None), NetworkFacts("lan0", IPv4Network("10.77.1.0/30")), {}, SEED)
    assert [str(each.ip) for each in found.assignments.values()] == ["10.77.1.2"]


@given(seeds)
def test_each_candidate_is_met_once(seed):
    met = list(FACTS.candidates(seed))
    assert len(met) == len(set(met)) == FREE
    assert set(met) == set(SUBNET) - NEVER


def test_workers_begin_at_different_addresses_and_leave_neighbours_to_the_end():
    lan = NetworkFacts("lan0", IPv4Network("10.0.0.0/16"))
    begun = {next(lan.candidates(number.to_bytes(32, "big"))) for number in range(100)}
    assert len(begun) > 90
    assert list(FACTS.candidates(SEED))[-1] == NEIGHBOUR
    assert set(FACTS.candidates(SEED)) == set(SUBNET) - NEVER


def test_a_huge_subnet_is_looked_at_in_part():
    lan = NetworkFacts("lan0", IPv4Network("10.0.0.0/8"))
    assert sum(1 for _ in lan.candidates(SEED)) == MAX_CANDIDATES


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10.0.0.7", "10.0.0.7", "10.0.0.8"),
        ("10.0.0.16/28", "10.0.0.31", "10.0.0.32"),
        ("10.0.0.5-10.0.0.9", "10.0.0.9", "10.0.0.4"),
    ],
)
def test_excluded_addresses_are_read(text, inside, outside):
    excluded = AddressRange.parse(text)
    assert IPv4Address(inside) in excluded
    assert IPv4Address(outside) not in excluded
    assert AddressRange.parse(str(excluded)) == excluded


@pytest.mark.parametrize("text", ["", "10.0.0.9-10.0.0.5", "10.0.0.1/24", "fe80::1", "10.0.0.5-", "-", "x"])
def test_other_texts_are_no_range(text):
    with pytest.raises(ValueError, match=r".+"):
        AddressRange.parse(text)
