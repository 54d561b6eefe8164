from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from decnet_core.errors import Conflict
from decnet_core.fleet import Account, DeckyPhase, DeckySpec, DeckyState, ShardReport
from decnet_master.journal.reader import Position
from decnet_master.store import Load, NewEvent, Store
from decnet_master.store.fleet import MAX_ERROR_CHARS
from decnet_master.store.hosts import MAX_VERSION_CHARS
from decnet_master.terms import FIXED, Terms
from decnet_master.views import decky_list
from tests.store.samples import NOW, an_event, enrol


def spec(name: str) -> DeckySpec:
    return DeckySpec(name=name, services=("ssh",), accounts=(Account(user="root", password="x y"),), ip="192.0.2.7")


def state(name: str, phase: DeckyPhase = DeckyPhase.RUNNING, **more: object) -> DeckyState:
    return DeckyState(name=name, phase=phase, **more)


@pytest.fixture
async def hosts(store: Store) -> None:
    await enrol(store, "w1")
    await enrol(store, "w2", "b" * 16)


async def test_generations_only_grow_also_under_concurrency(store: Store, url: str) -> None:
    async def ten(fleet) -> list[int]:
        return [await fleet.next_generation(NOW) for _ in range(10)]

    async with await Store.open(url) as other:
        runs = await asyncio.gather(*(ten(room.fleet) for room in [store, other] * 4))
    assert all(run == sorted(run) for run in runs)
    numbers = [number for run in runs for number in run]
    assert len(set(numbers)) == 80
    assert await store.fleet.next_generation(NOW) > max(numbers)


@pytest.mark.usefixtures("hosts")
async def test_the_desired_state_is_replaced_and_observed(store: Store) -> None:
    first = await store.fleet.next_generation(NOW)
    await store.fleet.place(first, [("w1", spec("d1")), ("w2", spec("d2"))])
    placed = await store.fleet.current()
    assert [(p.host, p.spec, p.phase, p.generation) for p in placed] == [
        ("w1", spec("d1"), None, first),
        ("w2", spec("d2"), None, first),
    ]
    running = state("d1", ip="192.0.2.9", mac="02:00:00:00:00:01", container="c")
    failed = state("d2", DeckyPhase.FAILED, error="no \0 image \udc80")
    await store.fleet.record(ShardReport(host="w1", generation=first, deckies=(running,)))
    await store.fleet.record(ShardReport(host="w2", generation=first, deckies=(failed,)))
    one, two = await store.fleet.current()
    assert (one.phase, one.ip, one.mac, one.error) == (DeckyPhase.RUNNING, "192.0.2.9", "02:00:00:00:00:01", None)
    assert (two.phase, two.ip, two.error) == (DeckyPhase.FAILED, None, "no \0 image \udc80")


@pytest.mark.usefixtures("hosts")
async def test_a_moved_address_is_kept_with_its_reason(store: Store) -> None:
    generation = await store.fleet.next_generation(NOW)
    await store.fleet.place(generation, [("w1", spec("d1"))])
    because = "02:00:00:00:00:09 answers for it \0" + "x" * MAX_ERROR_CHARS
    moved = state("d1", ip="192.0.2.9", moved_from="192.0.2.7", moved_because=because, contested_by="02:00:00:00:00:08")
    await store.fleet.record(ShardReport(host="w1", generation=generation, deckies=(moved,)))
    (placed,) = await store.fleet.current()
    assert (placed.ip, placed.moved_from, placed.contested_by) == ("192.0.2.9", "192.0.2.7", "02:00:00:00:00:08")
    assert placed.moved_because == because[:MAX_ERROR_CHARS]
    (view,) = decky_list([placed], {}).deckies
    assert (view.ip, view.moved_from, view.contested_by) == ("192.0.2.9", "192.0.2.7", "02:00:00:00:00:08")
    await store.fleet.record(ShardReport(host="w1", generation=generation, deckies=(state("d1", ip="192.0.2.7"),)))
    (placed,) = await store.fleet.current()
    assert (placed.ip, placed.moved_from, placed.moved_because, placed.contested_by) == ("192.0.2.7", None, None, None)


@pytest.mark.usefixtures("hosts")
async def test_what_is_no_longer_wanted_lingers_until_it_is_gone(store: Store) -> None:
    first = await store.fleet.next_generation(NOW)
    await store.fleet.place(first, [("w1", spec("d1")), ("w1", spec("d2"))])
    second = await store.fleet.next_generation(NOW)
    await store.fleet.place(second, [("w1", spec("d2"))])
    assert [p.spec.name for p in await store.fleet.current()] == ["d2"]
    assert [p.spec.name for p in await store.fleet.lingering()] == ["d1"]
    still = ShardReport(host="w1", generation=second, deckies=(state("d1", DeckyPhase.STOPPED), state("d2")))
    await store.fleet.record(still)
    assert [(p.spec.name, p.phase) for p in await store.fleet.lingering()] == [("d1", DeckyPhase.STOPPED)]
    await store.fleet.record(ShardReport(host="w1", generation=second, deckies=(state("d2"),), removed=("d1",)))
    assert await store.fleet.lingering() == []
    third = await store.fleet.next_generation(NOW)
    await store.fleet.place(third, [])
    await store.fleet.record(ShardReport(host="w2", generation=third))  # somebody else's report
    assert [p.spec.name for p in await store.fleet.lingering()] == ["d2"]
    await store.fleet.record(ShardReport(host="w1", generation=third))
    assert await store.fleet.lingering() == []


@pytest.mark.usefixtures("hosts")
async def test_what_a_change_does_not_concern_keeps_its_generation(store: Store) -> None:
    first, second, third = [await store.fleet.next_generation(NOW) for _ in range(3)]
    await store.fleet.place(first, [("w1", spec("d1")), ("w1", spec("d2")), ("w2", spec("d3"))])
    other = spec("d2").model_copy(update={"services": ("telnet",)})
    await store.fleet.place(second, [("w1", spec("d1")), ("w1", other), ("w2", spec("d4"))])
    assert [(p.spec.name, p.generation) for p in await store.fleet.current()] == [
        ("d1", first),
        ("d2", second),
        ("d4", second),
    ]
    assert [(p.spec.name, p.generation) for p in await store.fleet.lingering()] == [("d3", second)]
    await store.fleet.place(third, [("w1", spec("d1")), ("w1", other), ("w2", spec("d3")), ("w2", spec("d4"))])
    assert [(p.spec.name, p.generation) for p in await store.fleet.current()] == [
        ("d1", first),
        ("d2", second),
        ("d3", third),
        ("d4", second),
    ]
    # A report on what a worker was told last counts, also when the fleet has moved on elsewhere.
    await store.fleet.record(ShardReport(host="w1", generation=second, deckies=(state("d1"), state("d2"))))
    assert [p.phase for p in await store.fleet.current() if p.host == "w1"] == [DeckyPhase.RUNNING] * 2


@pytest.mark.usefixtures("hosts")
async def test_a_decky_may_move_to_another_host(store: Store) -> None:
    for host in ("w1", "w2"):
        await store.fleet.place(await store.fleet.next_generation(NOW), [(host, spec("d1"))])
    assert [p.host for p in await store.fleet.current()] == ["w2"]
    assert [p.host for p in await store.fleet.lingering()] == ["w1"]


@pytest.mark.usefixtures("hosts")
async def test_older_generations_and_reports_change_nothing(store: Store) -> None:
    first, second = [await store.fleet.next_generation(NOW) for _ in range(2)]
    await store.fleet.place(second, [("w1", spec("d1"))])
    with pytest.raises(Conflict, match="older"):
        await store.fleet.place(first, [])
    with pytest.raises(Conflict, match="never taken"):
        await store.fleet.place(second + 1, [])
    await store.fleet.place(second, [("w1", spec("d1"))])  # twice is harmless
    await store.fleet.record(ShardReport(host="w1", generation=first, deckies=(state("d1"),)))
    assert [(p.spec.name, p.phase) for p in await store.fleet.current()] == [("d1", None)]


@pytest.mark.usefixtures("hosts")
async def test_a_fleet_that_makes_no_sense_is_refused_whole(store: Store) -> None:
    first = await store.fleet.next_generation(NOW)
    await store.fleet.place(first, [("w1", spec("d1"))])
    second = await store.fleet.next_generation(NOW)
    with pytest.raises(Conflict, match="same name"):
        await store.fleet.place(second, [("w1", spec("d2")), ("w2", spec("d2"))])
    with pytest.raises(Conflict, match="not enrolled"):
        await store.fleet.place(second, [("w1", spec("d2")), ("w9", spec("d3"))])
    assert [p.spec.name for p in await store.fleet.current()] == ["d1"]


@pytest.mark.usefixtures("hosts")
async def test_fleets_placed_at_the_same_moment_do_not_mix(store: Store) -> None:
    numbers = [await store.fleet.next_generation(NOW) for _ in range(6)]
    tries = [store.fleet.place(n, [("w1", spec(f"g{n}-{i}")) for i in range(5)]) for n in numbers]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert results[-1] is None
    assert all(result is None or isinstance(result, Conflict) for result in results)
    assert [p.spec.name for p in await store.fleet.current()] == [f"g{numbers[-1]}-{i}" for i in range(5)]


@pytest.mark.usefixtures("hosts")
async def test_a_worker_s_words_are_bounded_and_storable(store: Store) -> None:
    generation = await store.fleet.next_generation(NOW)
    await store.fleet.place(generation, [("w1", spec("d1"))])
    words = "no\0space " * 100_000
    failed = state("d1", DeckyPhase.FAILED, error=words, container="\0" * 1000)
    strangers = tuple(f"d{number}\0" for number in range(50_000))
    await store.fleet.record(ShardReport(host="w1", generation=generation, deckies=(failed,), removed=strangers))
    (decky,) = await store.fleet.current()
    assert decky.error == words[:MAX_ERROR_CHARS]
    await store.hosts.seen("w1", "\0" * 1_000_000, NOW)
    assert (await store.hosts.get("w1")).version == "\0" * MAX_VERSION_CHARS


@pytest.mark.usefixtures("hosts")
async def test_what_each_worker_shall_run_is_read_at_once(store: Store) -> None:
    assert await store.fleet.of_workers(["w1", "w2", "w9"]) == (0, {})
    first, second, _unplaced = [await store.fleet.next_generation(NOW) for _ in range(3)]
    await store.fleet.place(first, [("w1", spec("d1")), ("w1", spec("d2")), ("w2", spec("d3"))])
    await store.fleet.place(second, [("w1", spec("d1")), ("w2", spec("d3"))])
    newest, fleets = await store.fleet.of_workers(["w1", "w2", "w9"])
    assert newest == second
    assert {host: fleet.generation for host, fleet in fleets.items()} == {"w1": second, "w2": first}
    assert [decky.spec.name for decky in fleets["w1"].wanted] == ["d1"]
    assert [decky.spec.name for decky in fleets["w1"].lingering] == ["d2"]
    assert (await store.fleet.of_workers(["w2"]))[1].keys() == {"w2"}


@pytest.mark.usefixtures("hosts")
async def test_what_is_seen_of_older_deckies_changes_nothing(store: Store) -> None:
    first, second = [await store.fleet.next_generation(NOW) for _ in range(2)]
    await store.fleet.place(first, [("w1", spec("d1")), ("w2", spec("d1x"))])
    await store.fleet.place(second, [("w1", spec("d1")), ("w1", spec("d2"))])
    async with store._database.write() as connection:
        await store.fleet.observe(connection, [])
        seen = [("w1", first, state("d1", DeckyPhase.STOPPED)), ("w1", first, state("d2")), ("w9", first, state("d1"))]
        await store.fleet.observe(connection, seen)
    assert [(p.spec.name, p.phase) for p in await store.fleet.current()] == [("d1", DeckyPhase.STOPPED), ("d2", None)]


@pytest.mark.usefixtures("hosts")
async def test_terms_are_placed_with_the_generation_or_not_at_all(store: Store) -> None:
    first = await store.fleet.next_generation(NOW)
    terms = Terms(("http", "telnet"), NOW)
    await store.fleet.place(first, [("w1", spec("d1")), ("w2", spec("d2"))], {"d1": terms})
    assert [decky.terms for decky in await store.fleet.current()] == [terms, FIXED]
    second, third = [await store.fleet.next_generation(NOW) for _ in range(2)]
    await store.fleet.place(third, [("w1", spec("d1"))])
    assert [decky.terms for decky in await store.fleet.current()] == [terms], "nobody said otherwise"
    with pytest.raises(Conflict):
        await store.fleet.place(second, [("w1", spec("d1"))], {})
    fourth = await store.fleet.next_generation(NOW)
    with pytest.raises(Conflict):
        await store.fleet.place(fourth, [("w1", spec("d1")), ("nowhere", spec("d3"))], {})
    assert [decky.terms for decky in await store.fleet.current()] == [terms]
    fifth = await store.fleet.next_generation(NOW)
    await store.fleet.place(fifth, [("w1", spec("d1"))], {})
    (decky,) = await store.fleet.current()
    assert (decky.terms, decky.generation) == (FIXED, first), "its worker need not be told"


@pytest.mark.usefixtures("hosts")
async def test_who_was_left_alone_since_he_was_made(store: Store) -> None:
    made = await store.fleet.next_generation(NOW)
    await store.fleet.place(made, [("w1", spec("d1")), ("w1", spec("d2")), ("w2", spec("d3")), ("w2", spec("d4"))])
    visits = [("w1", "d1", 1), ("w1", "d1", 5), ("w1", "d2", -1), ("w2", "d3", 3), ("w1", "d4", 2), ("w2", "gone", 1)]
    events = [
        NewEvent(an_event(number, decky=decky, session=f"s{number}"), worker, NOW + timedelta(hours=hours))
        for number, (worker, decky, hours) in enumerate(visits)
    ]
    start = await store.ingest.position()
    await store.ingest.append(Load.of(events), [], Position(start.segment + 1, 0), start)
    assert await store.fleet.left_alone_since(NOW + timedelta(hours=2)) == []
    assert await store.fleet.left_alone_since(NOW + timedelta(hours=4)) == [("w2", "d3")]
    assert await store.fleet.left_alone_since(NOW + timedelta(hours=5)) == [("w2", "d3"), ("w1", "d1")]
    again = await store.fleet.next_generation(NOW + timedelta(hours=6))
    await store.fleet.place(again, [("w1", spec("d1")), ("w2", spec("d3").model_copy(update={"resets": 1}))])
    assert await store.fleet.left_alone_since(NOW + timedelta(hours=9)) == [("w1", "d1")]
