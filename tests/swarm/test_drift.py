"""How a worker differs from what it shall be: what is wrong is found, and what is right is not called wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.fleet import AgentStatus, DeckyPhase, DeckySpec, DeckyState
from decnet_master.store import PlacedDecky, WorkerFleet
from decnet_master.swarmctl.drift import Cure, Kind, cure, deviations, news

pytestmark = pytest.mark.long

NOW = datetime(2026, 11, 23, tzinfo=UTC)
SERVICES = ("ssh", "telnet", "http")


def placed(name: str, generation: int, services: tuple[str, ...], mac: str | None = None) -> PlacedDecky:
    spec = DeckySpec(name=name, services=services, mac=mac)
    return PlacedDecky(
        host="w1", spec=spec, phase=DeckyPhase.RUNNING, ip=None, mac=mac, error=None, generation=generation
    )


def obeyed(decky: PlacedDecky, number: int) -> DeckyState:
    """Return the state of a decky that is as it shall be."""
    return DeckyState(
        name=decky.spec.name,
        phase=DeckyPhase.RUNNING,
        services=tuple(sorted(set(decky.spec.services))),
        ip=IPv4Address(0x0A000000 + number),
        mac=decky.spec.mac or f"3c:d9:2b:00:{number >> 8:02x}:{number & 0xFF:02x}",
    )


names = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)


@st.composite
def fleets(draw: st.DrawFn, least: int = 0) -> tuple[int, WorkerFleet]:
    """A worker's fleet, and the newest generation."""
    drawn = draw(st.lists(names, min_size=least, max_size=6, unique=True))
    wanted = tuple(
        placed(
            name,
            draw(st.integers(1, 50)),
            tuple(draw(st.lists(st.sampled_from(SERVICES), min_size=1, max_size=3))),
            draw(st.sampled_from([None, f"02:00:00:00:00:{number:02x}"])),
        )
        for number, name in enumerate(sorted(drawn))
    )
    fleet = WorkerFleet(wanted)
    return draw(st.integers(fleet.generation or 1, 60)), fleet


def obedient(newest: int, fleet: WorkerFleet, **more: object) -> AgentStatus:
    """What an agent says that did as it was told."""
    states = tuple(obeyed(decky, number) for number, decky in enumerate(fleet.wanted))
    return AgentStatus.model_validate(
        {"host": "w1", "version": "0.1.0", "generation": newest, "deckies": states, "at": NOW} | more
    )


@given(fleets(), st.data())
def test_whoever_did_as_told_does_not_differ(drawn: tuple[int, WorkerFleet], data: st.DataObject) -> None:
    newest, fleet = drawn
    heard_of = data.draw(st.integers(fleet.generation, newest))
    status = obedient(heard_of, fleet)
    shuffled = status.model_copy(update={"deckies": tuple(data.draw(st.permutations(status.deckies)))})
    for one in (status, shuffled):
        assert deviations(newest, fleet, one) == ()
        assert cure((), newest) is Cure.NOTHING


@given(fleets(least=1), st.data())
def test_each_thing_that_is_wrong_is_found_and_nothing_else(
    drawn: tuple[int, WorkerFleet], data: st.DataObject
) -> None:
    newest, fleet = drawn
    states = {state.name: state for state in obedient(newest, fleet).deckies}
    expected: set[tuple[str, Kind]] = set()
    for decky in fleet.wanted:
        name = decky.spec.name
        fault = data.draw(st.sampled_from([None, "lost", "stopped", "failed", "services", "mac"]))
        if fault == "lost":
            del states[name]
            expected.add((name, Kind.MISSING))
        elif fault in ("stopped", "failed"):
            states[name] = states[name].model_copy(update={"phase": DeckyPhase(fault), "error": "why \x1b[2J"})
            expected.add((name, Kind.DOWN))
        elif fault == "services":
            states[name] = states[name].model_copy(update={"services": ("ftp",)})
            expected.add((name, Kind.OTHER))
        elif fault == "mac" and decky.spec.mac is not None:
            states[name] = states[name].model_copy(update={"mac": "02:ff:00:00:00:01"})
            expected.add((name, Kind.OTHER))
    if data.draw(st.booleans()):
        states["not-ours"] = DeckyState(name="not-ours", phase=DeckyPhase.STOPPED)
        expected.add(("not-ours", Kind.UNWANTED))
    status = obedient(newest, fleet, deckies=tuple(states.values()))
    found = deviations(newest, fleet, status)
    assert {(one.decky, one.kind) for one in found} == expected
    assert [one.decky for one in found] == sorted(one.decky for one in found if one.decky)
    assert all("\x1b" not in one.words for one in found)
    what = cure(found, newest)
    if not expected:
        assert what is Cure.NOTHING
    else:
        only_down = {kind for _, kind in expected} == {Kind.DOWN}
        assert what is (Cure.LOOK_AGAIN if only_down else Cure.SEND)


@given(fleets(least=1), st.integers(0, 100))
def test_who_has_not_heard_of_what_concerns_it_is_told_and_who_knows_more_is_not(
    drawn: tuple[int, WorkerFleet], heard_of: int
) -> None:
    newest, fleet = drawn
    found = deviations(newest, fleet, obedient(heard_of, fleet))
    kinds = [one.kind for one in found]
    if heard_of > newest:
        assert (kinds, cure(found, newest)) == ([Kind.NEWER], Cure.NONE_KNOWN)
    elif heard_of < fleet.generation:
        assert (kinds, cure(found, newest)) == ([Kind.OLDER], Cure.SEND)
    else:
        assert kinds == []


@given(fleets(least=1))
def test_what_shall_be_gone_concerns_the_worker_until_it_says_so(drawn: tuple[int, WorkerFleet]) -> None:
    newest, fleet = drawn
    torn = WorkerFleet((), tuple(replace(decky, generation=newest + 1) for decky in fleet.wanted))
    assert torn.generation == newest + 1
    found = deviations(newest + 1, torn, obedient(newest, fleet))
    assert {one.kind for one in found} == {Kind.OLDER, Kind.UNWANTED}
    assert deviations(newest + 1, torn, obedient(newest + 1, WorkerFleet())) == ()


def test_two_deckies_with_one_address_are_both_told() -> None:
    fleet = WorkerFleet((placed("a", 1, ("ssh",)), placed("b", 1, ("ssh",))))
    one, other = obedient(1, fleet).deckies
    status = obedient(1, fleet, deckies=(one, other.model_copy(update={"ip": one.ip})))
    assert [(found.decky, found.kind) for found in deviations(1, fleet, status)] == [
        ("a", Kind.OTHER),
        ("b", Kind.OTHER),
    ]


def test_nothing_is_sent_before_anything_was_placed() -> None:
    found = deviations(0, WorkerFleet(), obedient(0, WorkerFleet(), deckies=(DeckyState(name="x", phase="running"),)))
    assert cure(found, 0) is Cure.NONE_KNOWN


@pytest.mark.parametrize(
    ("before", "after", "is_news"),
    [
        (DeckyPhase.RUNNING, DeckyPhase.RUNNING, False),
        (None, DeckyPhase.RUNNING, True),
        (DeckyPhase.RUNNING, DeckyPhase.STOPPED, True),
        (DeckyPhase.FAILED, DeckyPhase.STOPPED, False),  # why it failed is worth more
        (DeckyPhase.FAILED, DeckyPhase.RUNNING, True),
    ],
)
def test_only_what_changed_is_written_down(before: DeckyPhase | None, after: DeckyPhase, is_news: bool) -> None:
    decky = replace(placed("a", 1, ("ssh",)), phase=before, ip="10.0.0.0", mac="3c:d9:2b:00:00:00")
    state = obeyed(decky, 0).model_copy(update={"phase": after})
    status = obedient(1, WorkerFleet((decky,)), deckies=(state, DeckyState(name="stranger", phase="running")))
    assert news(WorkerFleet((decky,)), status) == ((state,) if is_news else ())
    moved = state.model_copy(update={"ip": IPv4Address("10.0.0.9")})
    status = obedient(1, WorkerFleet(), deckies=(moved,))
    assert bool(news(WorkerFleet((), (decky,)), status)) == (
        before is not DeckyPhase.FAILED or after is not DeckyPhase.STOPPED
    )
