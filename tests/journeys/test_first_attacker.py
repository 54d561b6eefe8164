"""From a real login on a decky to the operator's screen, also when every daemon on the way is killed in turn."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime

import docker
import pytest

from tests.journeys.conftest import child_pid, kill_alone, kill_child
from tests.lab.attack import Expectation, Row, Target, visit
from tests.lab.lan import Lan
from tests.lab.screen import Screen, find
from tests.lab.site import Site

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.slow]

_EVENTS_SECS = 60.0
"""Longer than any back-off on the way (a supervisor's and logship's first few steps)."""

Kill = Callable[[Site], None]


def _master_child(verb: str) -> Kill:
    return lambda site: kill_child(site.master, "decnet_master", verb)


def _agent_child(program: str, verb: str) -> Kill:
    return lambda site: kill_child(site.agent, program, verb)


def _whole_master(site: Site) -> None:
    kill_alone(site.master)
    site.master.start()
    site.master.wait_for_http(f"{site.api_url}/readyz", timeout_secs=60)


def _whole_agent(site: Site) -> None:
    kill_alone(site.agent)
    site.agent.start()
    site.agent.wait_for_port(site.ports["agent"])


def _updater(site: Site) -> None:
    site.updater.kill()
    site.updater.start()
    site.updater.wait_for_port(site.ports["updater"])


KILLS: dict[str, Kill] = {
    "nobody": lambda _site: None,
    "api": _master_child("api"),
    "swarmctl": _master_child("swarmctl"),
    "listener": _master_child("listener"),
    "ingester": _master_child("ingester"),
    "logship": _agent_child("decnet-logship", "serve"),
    "tap": _agent_child("decnet_agent", "tap"),
    "agent": _whole_agent,
    "master": _whole_master,
    "updater": _updater,
}


@pytest.mark.parametrize("victim", KILLS)
def test_every_event_arrives_exactly_once(
    victim: str, site: Site, lan: Lan, engine_client: docker.DockerClient
) -> None:
    """Attack, kill, attack again: what came before, during and after is stored once, in order."""
    with Screen(site.api_url, site.admin_password) as screen:
        deckies = _targets(screen)
        expected = visit(lan.attacker, deckies[0], secrets.token_hex(3))
        KILLS[victim](site)
        site.wait_for_tap()
        expected += visit(lan.attacker, deckies[1], secrets.token_hex(3))
        missing = screen.wait_for(expected, timeout_secs=_EVENTS_SECS)
        stored = screen.stored()
        assert missing == [], _told_instead(missing, stored)
        _assert_once(expected, stored)
        assert all(row["worker"] == "w1" for row in stored)
        for decky in deckies:
            _wait_until_console_is_stored(decky, site, screen, engine_client)


def test_a_visit_that_no_tap_sees_arrives_too(site: Site, lan: Lan, screen: Screen) -> None:
    """The tap is killed whenever it runs while the attacker is there, and told everything when it is let live."""
    decky = _targets(screen)[0]
    with _killed_whenever_it_runs(site) as kills:
        expected = visit(lan.attacker, decky, secrets.token_hex(3))
    assert len(kills) > 1
    site.wait_for_tap()
    missing = screen.wait_for(expected, timeout_secs=_EVENTS_SECS)
    stored = screen.stored()
    assert missing == [], _told_instead(missing, stored)
    _assert_once(expected, stored)


def test_the_stream_shows_what_the_database_holds(lan: Lan, screen: Screen) -> None:
    decky = _targets(screen)[0]
    expected = visit(lan.attacker, decky, secrets.token_hex(3))
    assert screen.wait_for(expected, timeout_secs=_EVENTS_SECS) == []
    stored = {row["seq"]: row for row in screen.stored()}
    for one in expected:
        seen = find(one, screen.seen())
        assert seen is not None
        assert stored[seen.row["seq"]] == seen.row


def test_the_same_deploy_again_changes_nothing(site: Site, engine_client: docker.DockerClient) -> None:
    before = _started_at(engine_client)
    assert len(before) == 2
    site.master_cli("deploy", "--count", "0", "--json")
    assert _started_at(engine_client) == before


@contextlib.contextmanager
def _killed_whenever_it_runs(site: Site) -> Iterator[list[int]]:
    over = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while not over.wait(0.02):
            pid = child_pid(site.agent, "decnet_agent", "tap")
            if pid is not None and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def _assert_once(expected: list[Expectation], stored: list[Row]) -> None:
    for one in expected:
        same = [row for row in stored if _is(one, row)]
        assert len(same) == 1 or not one.once, (one.event_type, [row["fields"] for row in same])
    assert [identifier for identifier, n in Counter(row["id"] for row in stored).items() if n > 1] == []


def _told_instead(missing: list[Expectation], stored: list[Row]) -> str:
    """Say what is on record since the first missing event was due, and what of it was stored but not streamed."""
    since = min((one.typed_at for one in missing), default=0.0) - 1.0
    late = [one.event_type for one in missing if any(_is(one, row) for row in stored)]
    rows = [row for row in stored if datetime.fromisoformat(row["at"]).timestamp() > since]
    told = "\n".join(f"{row['at']} {row['decky']} {row['event_type']} {row['fields']}" for row in rows[-200:])
    return f"stored and never streamed: {late}; on record since then:\n{told}"


def _targets(screen: Screen) -> list[Target]:
    return [
        Target(decky["name"], decky["ip"], decky["accounts"][0]["user"], decky["accounts"][0]["password"])
        for decky in screen.get("/api/v1/deckies")["deckies"]
    ]


def _is(expected: Expectation, row: Row) -> bool:
    at = datetime.fromisoformat(row["at"]).timestamp()
    # half a second: the decky's own log has the time of its line, not of the keystroke
    return row["event_type"] == expected.event_type and at > expected.typed_at - 0.5 and expected.matches(row)


def _started_at(client: docker.DockerClient) -> dict[str, str]:
    return {
        container.id: container.attrs["State"]["StartedAt"]
        for container in client.containers.list(filters={"label": "decnet.decky"})
    }


def _wait_until_console_is_stored(decky: Target, site: Site, screen: Screen, client: docker.DockerClient) -> None:
    """Wait for a moment at which the decky prints nothing and every line of its console is one event."""
    [container] = client.containers.list(filters={"label": f"decnet.decky={decky.name}"})
    source = f"container:{container.id}"

    def printed() -> int:
        text = container.logs(stdout=True, stderr=True)
        return len([line for line in text.replace(b"\r", b"").split(b"\n") if line])

    def all_told() -> bool:
        before = printed()
        events = sum(row["source"] == source for row in screen.stored())
        return bool(before == events == printed())

    site.master.wait_until(all_told, f"event for each line of {decky.name}'s console", timeout_secs=_EVENTS_SECS)
