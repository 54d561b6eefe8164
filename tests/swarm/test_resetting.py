"""Resets: a decky is made what it was, all that are named or none, not under a visitor; idle ones by themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import structlog
from pydantic import ValidationError

from decnet_core.errors import ConfigError, Conflict, NotFound
from decnet_core.fleet import DeckySpec
from decnet_master.journal.reader import Position
from decnet_master.planning import Placement, plan_id, plan_reset
from decnet_master.settings import MasterSettings
from decnet_master.store import Load, NewEvent, Store
from decnet_master.swarmctl.changes import Changes
from decnet_master.swarmctl.fleet_messages import ApplyRequest, GroupRequest, ResetRequest
from decnet_master.swarmctl.lifecycle import RESET_AT_ONCE, reset_some
from tests.store.samples import an_event
from tests.swarm.test_changes import Away, join

IDLE = timedelta(hours=48)


def placed(name: str, host: str = "w1") -> Placement:
    return Placement(host, DeckySpec(name=name, services=("ssh",), mac="00:16:3e:00:00:01", seed=7))


FLEET = (placed("a"), placed("b"), placed("c", "w2"))


def test_nothing_but_the_count_differs() -> None:
    change = plan_reset(("b",), {"w1", "w2"}, FLEET, ())
    (after,) = change.changed
    assert after.decky.resets == 1
    assert after.decky.model_copy(update={"resets": 0}) == FLEET[1].decky
    assert (after.host, after.terms, change.kept, change.hosts) == ("w1", FLEET[1].terms, 2, {"w1"})
    (again,) = plan_reset(("b",), {"w1"}, change.of(FLEET), ()).changed
    assert again.decky.resets == 2


def test_one_that_was_never_reset_is_written_as_before() -> None:
    assert "resets" not in FLEET[0].decky.model_dump_json()
    assert '"resets":1' in FLEET[0].decky.model_copy(update={"resets": 1}).model_dump_json()


def test_all_that_are_named_or_none() -> None:
    with pytest.raises(NotFound, match="nobody"):
        plan_reset(("a", "nobody"), {"w1", "w2"}, FLEET, ())
    with pytest.raises(Conflict, match="not active: c"):
        plan_reset(("a", "c"), {"w1"}, FLEET, ())
    with pytest.raises(Conflict, match="In use: a"):
        plan_reset(("a", "b"), {"w1"}, FLEET, {("w1", "a"), ("w2", "b")})


@pytest.mark.parametrize("hours", [-1, 1, 23, 10_001])
def test_a_visitor_may_be_back_within_a_day(hours: int) -> None:
    with pytest.raises((ConfigError, ValidationError)):
        MasterSettings(reset_after_idle_hours=hours)
    assert MasterSettings(reset_after_idle_hours=24).reset_after_idle_hours == 24


async def applied(store: Store, *names: str) -> Changes:
    await join(store, "w1")
    changes = Changes(store, Away(), "secret")  # type: ignore[arg-type]
    await changes.begin(ApplyRequest(groups=(GroupRequest(names=names),)))
    return changes


async def visited(store: Store, *visits: tuple[str, datetime]) -> None:
    start = await store.ingest.position()
    events = [
        NewEvent(an_event(number, decky=decky, session=f"s{number}"), "w1", at)
        for number, (decky, at) in enumerate(visits, start=start.segment * 100)
    ]
    await store.ingest.append(Load.of(events), [], Position(start.segment + 1, 0), start)


async def test_a_reset_is_a_generation_and_is_held_to_its_plan(store: Store) -> None:
    changes = await applied(store, "a", "b")
    request = ResetRequest(names=("a",))
    _, shown = await changes.look(request)
    with structlog.testing.capture_logs() as told:
        begun = await changes.begin(request.model_copy(update={"plan": plan_id(shown)}))
    assert [each for each in told if each["event"] == "decky.reset"] == [
        {"event": "decky.reset", "log_level": "info", "decky": "a", "worker": "w1", "resets": 1}
    ]
    found = {decky.spec.name: decky for decky in await store.fleet.current()}
    assert (found["a"].spec.resets, found["a"].generation) == (1, begun.generation)
    assert found["b"].spec.resets == 0
    with pytest.raises(Conflict, match="not what would be done"):
        await changes.begin(request.model_copy(update={"plan": plan_id(shown)}))
    await changes.begin(ApplyRequest(groups=(GroupRequest(names=("a", "b")),)))
    assert [decky.spec.resets for decky in await store.fleet.current()] == [1, 0], "the file says nothing of it"


async def test_a_visitor_keeps_a_decky_as_it_is(store: Store) -> None:
    changes = await applied(store, "a")
    await visited(store, ("a", datetime.now(UTC)))
    with pytest.raises(Conflict, match="In use: a"):
        await changes.begin(ResetRequest(names=("a",)))
    assert (await changes.begin(ResetRequest(names=("a",), force=True))).change.changed


async def test_those_that_are_left_alone_are_reset_once(store: Store) -> None:
    now = datetime.now(UTC)
    changes = await applied(store, "a", "b", "c", "d")
    later = now + timedelta(seconds=5)  # than the fleet was made
    assert await reset_some(store, changes, timedelta(seconds=-10)) == (), "nobody was there"
    await visited(store, ("a", later), ("b", now - timedelta(hours=1)), ("c", later), ("c", now + timedelta(hours=2)))
    assert await store.fleet.left_alone_since(later) == [("w1", "a")]
    assert await store.fleet.left_alone_since(later - timedelta(seconds=1)) == []
    both = await store.fleet.left_alone_since(now + timedelta(hours=3))
    assert both == [("w1", "a"), ("w1", "c")], "who was left first comes first"
    # what has a visitor within the day is not reset, however soon that may be asked for
    with pytest.raises(Conflict, match="In use: a"):
        await reset_some(store, changes, later - datetime.now(UTC) - timedelta(hours=1))


async def test_few_at_a_time_and_each_once_for_its_visits(store: Store) -> None:
    names = tuple(f"d-{number}" for number in range(RESET_AT_ONCE + 2))
    long_ago = datetime.now(UTC) - timedelta(days=30)
    changes = await applied(store, *names)
    await store.fleet.place(await store.fleet.next_generation(long_ago), [])
    made = [("w1", DeckySpec(name=name, services=("ssh",))) for name in names]
    await store.fleet.place(await store.fleet.next_generation(long_ago), made)
    await visited(store, *((name, datetime.now(UTC) - timedelta(days=3)) for name in names))
    first = await reset_some(store, changes, IDLE)
    second = await reset_some(store, changes, IDLE)
    assert (len(first), set(first) | set(second)) == (RESET_AT_ONCE, set(names))
    assert await reset_some(store, changes, IDLE) == ()
    assert {decky.spec.resets for decky in await store.fleet.current()} == {1}
