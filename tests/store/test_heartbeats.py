"""What is written down of a worker's heartbeats, and the alarm for one that went away, on both engines."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from decnet_core.fleet import AgentStatus, DeckyPhase, DeckySpec, DeckyState, ShardReport
from decnet_master.findings import look
from decnet_master.store import Beat, Repair, Store
from decnet_master.store.heartbeats import GIVES_UP_AFTER, MAX_DRIFT, MAX_WORDS_CHARS, MISSES, Turned
from tests.store.samples import NOW, enrol, redemption


def secs(number: float) -> timedelta:
    return timedelta(seconds=number)


def answer(host: str, at: datetime, **more: object) -> Beat:
    values = {"version": "0.1.0", "generation": 7, "engine": "20.10", "taps": "kernel"}
    drift = more.pop("drift", ())
    deckies = more.pop("deckies", ())
    status = AgentStatus(host=host, at=at, deckies=deckies, **(values | more))
    return Beat(host, at, status, drift=drift, deckies=deckies)


def silence(host: str, at: datetime) -> Beat:
    return Beat(host, at, error=f"{host} cannot be reached")


@pytest.fixture
async def workers(store: Store) -> tuple[str, str]:
    for number, name in enumerate(("w1", "w2")):
        token = f"{number}" * 16
        await enrol(store, name, token)
        await store.hosts.redeem(token, "hash", "digest", NOW, lambda _, n=number: redemption(fingerprint=f"{n}" * 64))
    return "w1", "w2"


@pytest.mark.usefixtures("workers")
async def test_an_answer_is_written_down(store: Store) -> None:
    assert {host: one.asked_at for host, one in (await store.heartbeats.list()).items()} == {"w1": None, "w2": None}
    at = NOW + secs(30)
    drift = tuple(f"d{number} \0 is down" * 100 for number in range(2 * MAX_DRIFT))
    assert await store.heartbeats.record([answer("w1", at, version="9\0", drift=drift)], at) == Turned()
    one, other = (await store.heartbeats.list()).values()
    assert (one.asked_at, one.answered_at, one.unreachable_since, one.error) == (at, at, None, None)
    assert (one.generation, one.engine, one.taps) == (7, "20.10", "kernel")
    assert one.drift == tuple(words[:MAX_WORDS_CHARS] for words in drift[:MAX_DRIFT])
    assert other.asked_at is None
    host = await store.hosts.get("w1")
    assert (host.seen_at, host.version) == (at, "9\0")
    later = at + secs(30)
    await store.heartbeats.record([answer("w1", later, generation=1 << 70)], later)
    (one, _) = (await store.heartbeats.list()).values()
    assert (one.answered_at, one.drift) == (later, ())
    status = answer("w1", later).status
    await store.heartbeats.record([answer("w1", later, drift=("d1 is down",))], later)
    await store.heartbeats.record([Beat("w1", later, status)], later)
    assert (await store.heartbeats.list())["w1"].drift == ("d1 is down",), "what is not known now stays as it was"


@pytest.mark.usefixtures("workers")
async def test_going_away_and_coming_back_are_told_once_each(store: Store, url: str) -> None:
    await store.heartbeats.record([answer("w1", NOW + secs(1)), answer("w2", NOW + secs(1))], NOW)
    for miss in range(1, MISSES + 3):
        at = NOW + secs(30 * miss)
        async with await Store.open(url) as fresh:  # a controller that starts again tells nothing twice
            turned = await fresh.heartbeats.record([silence("w1", at), answer("w2", at)], at)
        assert turned == (Turned(away=("w1",)) if miss == MISSES else Turned())
        one = (await store.heartbeats.list())["w1"]
        assert (one.unreachable_since is not None) == (miss >= MISSES)
        assert one.answered_at == NOW + secs(1)
    assert one.unreachable_since == NOW + secs(1)
    assert one.error == "w1 cannot be reached"
    assert one.generation == 7, "what was known of it is still known"
    back = at + secs(60)
    assert await store.heartbeats.record([answer("w1", back)], back) == Turned(back=("w1",))
    assert await store.heartbeats.record([answer("w1", back + secs(1))], back) == Turned()
    rows = await store.events.page()
    assert [(row["event_type"], row["worker"], row["fields"]["away_secs"]) for row in rows] == [
        ("worker.unreachable", "w1", str(30 * MISSES - 1)),
        ("worker.reached", "w1", str(30 * (MISSES + 2) + 60 - 1)),
    ]
    assert (await store.heartbeats.list())["w1"].unreachable_since is None


@pytest.mark.usefixtures("workers")
async def test_one_that_never_answered_is_away_since_it_joined(store: Store) -> None:
    for miss in range(MISSES):
        turned = await store.heartbeats.record([silence("w1", NOW + secs(60 + miss))], NOW)
    assert turned == Turned(away=("w1",))
    (row,) = await store.events.page()
    assert (row["text"], row["fields"]["reason"]) == (
        f"The agent of w1 cannot be reached since {NOW:%Y-%m-%d %H:%M:%S} UTC: w1 cannot be reached",
        "w1 cannot be reached",
    )


@pytest.mark.usefixtures("workers")
async def test_who_is_decommissioned_is_forgotten_without_a_word(store: Store) -> None:
    for miss in range(MISSES):
        await store.heartbeats.record([silence("w1", NOW + secs(miss))], NOW)
    await store.hosts.decommission("w1", NOW)
    assert await store.heartbeats.record([answer("w1", NOW + secs(9))], NOW) == Turned()
    assert (await store.heartbeats.list()).keys() == {"w2"}
    assert (await store.hosts.get("w1")).seen_at != NOW + secs(9)
    assert len(await store.events.page()) == 1
    await enrol(store, "w1", "c" * 16)
    await store.hosts.redeem("c" * 16, "hash", "digest", NOW, lambda _: redemption(fingerprint="c" * 64))
    assert (await store.heartbeats.list())["w1"].asked_at is None, "the name begins anew"


@pytest.mark.usefixtures("workers")
async def test_deckies_are_noted_with_the_heartbeat(store: Store) -> None:
    generation = await store.fleet.next_generation(NOW)
    spec = DeckySpec(name="d1", services=("ssh",))
    await store.fleet.place(generation, [("w1", spec)])
    state = DeckyState(name="d1", phase=DeckyPhase.STOPPED, ip="192.0.2.9", error="it ended")
    await store.heartbeats.record([answer("w1", NOW, generation=generation - 1, deckies=(state,))], NOW)
    assert (await store.fleet.current())[0].phase is None, "what an older generation is like says nothing"
    await store.heartbeats.record([answer("w1", NOW, generation=1 << 70, deckies=(state,))], NOW)
    (decky,) = await store.fleet.current()
    assert (decky.phase, decky.ip, decky.error) == (DeckyPhase.STOPPED, "192.0.2.9", "it ended")


@pytest.mark.usefixtures("workers")
async def test_batches_of_several_controllers_do_not_mix(store: Store, url: str) -> None:
    async with await Store.open(url) as other:
        rooms = [store.heartbeats, other.heartbeats] * MISSES
        batches = [[silence(host, NOW + secs(n)) for host in ("w1", "w2")] for n in range(len(rooms))]
        turned = await asyncio.gather(*(room.record(batch, NOW) for room, batch in zip(rooms, batches, strict=True)))
    assert sum((one.away for one in turned), ()) == ("w1", "w2")


@pytest.mark.usefixtures("workers")
async def test_repairs_are_kept_until_they_are_done(store: Store) -> None:
    first = Repair("w1", 1, 1, "no \0 image", NOW, NOW + secs(30))
    await store.repairs.keep(first)
    second = first.failed_again("no \0 image", NOW + secs(30), NOW + secs(90))
    await store.repairs.keep(second)
    assert await store.repairs.list() == {"w1": second}
    assert (second.failures, second.alike) == (2, 2)
    third = second.failed_again("x" * 1000, NOW, NOW)
    assert (third.failures, third.alike, third.error) == (3, 1, "x" * MAX_WORDS_CHARS)
    one = (await store.heartbeats.list())["w1"]
    assert (one.repair, one.repairs_alike, one.repaired_next_at) == ("no \0 image", 2, NOW + secs(90))
    await store.repairs.clear(["w1", "w9"])
    assert await store.repairs.list() == {}


@pytest.mark.usefixtures("workers")
async def test_both_events_keep_to_the_catalogue(store: Store) -> None:
    for miss in range(MISSES):
        await store.heartbeats.record([silence("w1", NOW + secs(miss))], NOW)
    await store.heartbeats.record([answer("w1", NOW + secs(9))], NOW)
    rows = await store.events.page()
    assert {row["fields"].keys() >= {"since", "away_secs"} for row in rows} == {True}
    assert [row["service"] for row in rows] == ["decnet", "decnet"]


@pytest.mark.usefixtures("workers")
async def test_who_cannot_be_reached_or_mended_is_found(store: Store) -> None:
    at = NOW + secs(60)
    assert (await look(store, 100, at)).wrong == ()
    for miss in range(MISSES):
        await store.heartbeats.record([silence("w1", NOW + secs(miss)), answer("w2", NOW + secs(miss))], at)
    stuck = Repair("w2", GIVES_UP_AFTER, GIVES_UP_AFTER - 1, "no image", at, at)
    await store.repairs.keep(stuck)
    (away,) = (await look(store, 100, at)).wrong
    assert (away.part, away.grave) == ("swarm", False)
    assert "1 of 2 workers cannot be reached: w1" in away.message
    await store.repairs.keep(stuck.failed_again("no image", at, at))
    _, given_up = (await look(store, 100, at)).wrong
    assert given_up.message == "1 of 2 workers cannot be made as they shall be: w2; w2: no image"


@pytest.mark.usefixtures("workers")
async def test_whoever_changes_the_fleet_and_whoever_hears_of_it_never_wait_for_each_other(
    store: Store, url: str
) -> None:
    specs = [DeckySpec(name=f"d{number}", services=("ssh",)) for number in range(40)]
    states = tuple(DeckyState(name=spec.name, phase=DeckyPhase.RUNNING) for spec in reversed(specs))

    async def change(other: Store) -> None:
        for turn in range(10):
            placed = [("w1" if (number + turn) % 2 else "w2", spec) for number, spec in enumerate(specs)]
            await other.fleet.place(await other.fleet.next_generation(NOW), placed)

    async def hear(other: Store) -> None:
        for turn in range(10):
            at = NOW + secs(turn)
            said = [answer(host, at, generation=1 << 40, deckies=states) for host in ("w2", "w1")]
            await other.heartbeats.record(said, at)
            for host in ("w1", "w2"):
                await other.fleet.record(ShardReport(host=host, generation=1 << 40, deckies=states[::-1]))

    async with await Store.open(url) as other:
        await asyncio.gather(change(store), hear(other), hear(store))
    assert len(await store.fleet.current()) == len(specs)
