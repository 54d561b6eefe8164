"""Fifty visits from five addresses, eight at once, in every way that attackers come; and one of 25,000 lines.

Every password, line, program, file and byte of them is in the record, and is told as that visit's: a session each, from
the right address and port.
"""

from __future__ import annotations

import contextlib
import http.server
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from decnet_core.errors import Unavailable
from decnet_core.events import Event, EventType
from tests.evidence.casts import recorded
from tests.evidence.visits import USER, Expected, Visit, payload
from tests.lab.lan import ip
from tests.tap.lab_site import PASSWORD, Site

pytestmark = [pytest.mark.root, pytest.mark.docker]

VISITS = 50
AT_ONCE = 8
LINES = 25_000
WEB_PORT = 8000


@pytest.fixture(scope="module")
def addresses(site: Site) -> list[str]:
    """The attacker's, and four more of his."""
    more = [str(site.lan.host(number)) for number in range(60, 64)]
    for address in more:
        ip("-n", site.lan.attacker.netns.name, "address", "add", f"{address}/24", "dev", "eth0")
    return [str(site.lan.attacker.address), *more]


@pytest.fixture(scope="module")
def web(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the attacker's, as address and port."""
    folder = tmp_path_factory.mktemp("web")
    for number in range(VISITS):
        (folder / f"payload-{number}").write_bytes(payload(number))
    address = str(site.lan.attacker.address)
    serve = site.lan.attacker.popen(
        [sys.executable, "-m", http.server.__name__, "--bind", address, "--directory", str(folder), str(WEB_PORT)]
    )
    site.tap.wait_until(lambda: site.lan.attacker.reaches(address, WEB_PORT), "the attacker's server")
    yield f"{address}:{WEB_PORT}"
    serve.kill()
    serve.communicate()


def test_fifty_visits_are_told_whole_and_apart(site: Site, addresses: list[str], web: str, tmp_path: Path) -> None:
    before = len(site.collector.events)
    visits = []
    for number in range(VISITS):
        (folder := tmp_path / str(number)).mkdir()
        visits.append(Visit(site, number, addresses[number % len(addresses)], folder, web))
    with ThreadPoolExecutor(AT_ONCE) as together:
        left = list(together.map(Visit.make, visits))
    with contextlib.suppress(Unavailable):  # the next line says what is missing
        site.tap.wait_until(lambda: not missing(site, visits, left), "the record of all visits")
    assert missing(site, visits, left) == []
    sessions = [told_of(site.collector.events, visit, expected) for visit, expected in zip(visits, left, strict=True)]
    assert len({session for session, _ in sessions}) == len({port for _, port in sessions}) == VISITS
    for visit, expected, (session, _) in zip(visits, left, sessions, strict=True):
        for path, content in expected.files.items():
            event = next(event for event in site.collector.events if captured(path, event))
            assert (site.data / "quarantine" / event.fields["stored_as"]).read_bytes() == content, visit.number
        if expected.shown is not None:
            event = next(event for event in site.collector.events if recorded_in(session, event))
            cast = recorded(site.data / "quarantine", event)
            assert cast.shown == expected.shown, visit.number
            assert cast.typed == expected.typed or not expected.typed, visit.number
    since = site.collector.events[before:]
    assert {event.src_ip for event in since if event.src_ip} == set(addresses)
    assert not [event for event in since if event.event_type == EventType.EVIDENCE_DROPPED]


def missing(site: Site, visits: Sequence[Visit], left: Sequence[Expected]) -> list[str]:
    """Say what is not in the record as what that visit did."""
    events, told = list(site.collector.events), []
    for visit, expected in zip(visits, left, strict=True):
        session, port = told_of(events, visit, expected)
        ours = [event for event in events if (event.session, event.src_ip) == (session, visit.address)]
        wanted = [("true", line) for line in expected.lines] + [("false", run) for run in expected.runs]
        there = {(event.fields.get("interactive"), event.fields.get("command")) for event in ours}
        told += [f"{visit.number}: {each}" for each in wanted if session is None or each not in there]
        kept = {event.fields["path"] for event in ours if event.event_type == EventType.FILE_CAPTURED}
        told += [f"{visit.number}: {path}" for path in expected.files if path not in kept]
        tried = {(event.src_port, event.fields["password"]) for event in events if tried_from(visit.address, event)}
        if (port, PASSWORD) not in tried:
            told.append(f"{visit.number}: its password")
        if expected.wrong is not None and expected.wrong not in {password for _, password in tried}:
            told.append(f"{visit.number}: the wrong password")
        if expected.shown is not None and not any(recorded_in(session, event) for event in ours):
            told.append(f"{visit.number}: its recording")
    return told


def told_of(events: Sequence[Event], visit: Visit, expected: Expected) -> tuple[str | None, int | None]:
    """Find the session and the port that an event has which only this visit can have made."""
    ours = {*expected.lines, *expected.runs}
    for event in events:
        command = event.fields.get("command", "")
        if event.fields.get("path") in expected.files or (command in ours and str(visit.number) in command):
            return event.session, event.src_port
    return None, None


def captured(path: str, event: Event) -> bool:
    return event.event_type == EventType.FILE_CAPTURED and event.fields["path"] == path


def recorded_in(session: str | None, event: Event) -> bool:
    return event.event_type == EventType.SESSION_RECORDED and event.session == session


def tried_from(address: str, event: Event) -> bool:
    return event.event_type == EventType.CREDENTIAL_TRIED and (event.src_ip, event.fields["user"]) == (address, USER)


def test_a_visit_of_twenty_five_thousand_lines_is_told_line_by_line(site: Site) -> None:
    lines = ["PS1=", *(f": line {number}" for number in range(LINES - 2)), "exit"]
    before = len(site.collector.events)
    got = site.ssh(None, input="".join(f"{line}\n" for line in lines).encode(), tty=True, timeout_secs=240).stdout
    session = site.command(f": line {LINES - 3}", interactive="true").session
    site.wait(lambda event: event.session == session and event.fields.get("command") == "exit")
    told = [event for event in site.collector.events[before:] if event.session == session]
    typed = [event.fields["command"] for event in told if event.fields.get("interactive") == "true"]
    assert typed == lines
    cast = recorded(site.data / "quarantine", site.wait(lambda event: recorded_in(session, event)))
    assert cast.shown == got
    assert cast.typed.split(b"\n")[:-1] == [line.encode() for line in lines]
    assert not [event for event in site.collector.events[before:] if event.event_type == EventType.EVIDENCE_DROPPED]
