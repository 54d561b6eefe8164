"""Recordings of terminals: what the client saw and typed, byte for byte, whoever floods, dies or restarts meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from decnet_core.events import Event, EventType
from tests.evidence.casts import Recorded, recorded
from tests.evidence.client import Terminal
from tests.tap.lab_site import Site

pytestmark = [pytest.mark.root, pytest.mark.docker]

BOUND_BYTES = 1 << 20
"""What the tier's tap records of what a terminal shows; see conftest."""


class Found:
    """The recording in which a marker was shown or typed."""

    def __init__(self, site: Site, marker: bytes) -> None:
        self._looked: set[str] = set()

        def seen(event: Event) -> bool:
            if event.event_type != EventType.SESSION_RECORDED or event.id in self._looked:
                return False
            self._looked.add(event.id)
            cast = recorded(site.data / "quarantine", event)
            if marker not in cast.shown and marker not in cast.typed:
                return False
            self.cast = cast
            return True

        self.event = site.wait(seen)


def _typed(site: Site, lines: bytes) -> tuple[bytes, Recorded, Event]:
    """Type lines at a terminal; give what the client got, and the recording, found by the marker in the first line."""
    done = site.ssh(None, input=lines, tty=True)
    found = Found(site, lines.split(b"\n", 1)[0])
    return done.stdout, found.cast, found.event


def test_a_session_is_recorded_as_the_client_saw_it(site: Site) -> None:
    lines = b"echo plain-$((6*7))\nls -la --color=always /\nexit\n"
    got, cast, event = _typed(site, lines)
    assert cast.shown == got
    assert b"plain-42" in got
    assert cast.typed == lines
    line = site.command("echo plain-$((6*7))", interactive="true")
    assert (event.session, event.src_ip, event.src_port) == (line.session, line.src_ip, line.src_port)
    assert (event.decky, event.service, event.fields["user"]) == ("web-01", "ssh", "bob")
    assert "truncated" not in event.fields
    assert event.fields["login_at"] <= line.at.isoformat()
    kept = site.data / "quarantine" / event.fields["stored_as"]
    assert kept.stat().st_mode & 0o007 == 0
    assert kept.with_suffix(".json").exists()


def test_bytes_that_are_no_text_are_recorded_exactly(site: Site) -> None:
    lines = b"echo binary; head -c 300000 /dev/urandom; printf '\\xc3'; sleep 0.1; printf '\\xa9\\xff\\n'; exit\n"
    got, cast, _ = _typed(site, lines)
    assert len(got) > 300_000
    assert cast.shown == got
    assert cast.of("x")


def test_an_editor_at_a_terminal_that_is_resized(site: Site, tmp_path: Path) -> None:
    with Terminal(site, tmp_path, columns=91, rows=33) as terminal:
        terminal.see(b"$ ")
        terminal.type(b"PS1='> '; stty size; echo sized-$((1+1))\r")
        terminal.see(b"sized-2")
        terminal.resize(123, 45)
        terminal.type(b"until [ \"$(stty size)\" = '45 123' ]; do :; done; echo wide-$((1+1))\r")
        terminal.see(b"wide-2")
        terminal.type(b"vi /tmp/edited\r")
        terminal.see(b"/tmp/edited")
        terminal.type(b"ihidden in an editor\x1b:wq\r")
        terminal.see(b"written")
        terminal.type(b"exit\r")
        terminal.end()
    found = Found(site, b"sized-2")
    assert found.cast.shown in terminal.got
    assert (found.cast.header["width"], found.cast.header["height"]) == (91, 33)
    assert found.cast.of("r") == ["123x45"]
    assert b"hidden in an editor" in found.cast.typed
    assert site.file("/tmp/edited").session == found.event.session


def test_eight_sessions_at_once_are_eight_recordings(site: Site) -> None:
    shells = [site.shell() for _ in range(8)]
    lines = [b"echo many-%d; seq 1 3000; exit\n" % number for number in range(8)]
    for shell, line in zip(shells, lines, strict=True):
        assert shell.stdin is not None
        shell.stdin.write(line)
        shell.stdin.flush()
    got = [shell.communicate(timeout=60)[0] for shell in shells]
    sessions = set()
    for number in range(8):
        found = Found(site, b"many-%d;" % number)
        assert found.cast.shown == got[number]
        assert found.cast.typed == lines[number]
        sessions.add((found.event.session, found.event.src_port))
    assert len(sessions) == 8


def test_a_terminal_within_a_terminal_is_recorded_once_and_one_without_a_terminal_too(site: Site) -> None:
    _, cast, event = _typed(site, b"echo nested; script -qc 'echo in-$((4+4))' /dev/null; exit\n")
    assert b"in-8" in cast.shown
    site.ssh("script -qc 'echo alone-$((4+4))' /dev/null")
    alone = Found(site, b"alone-8")
    of_nested = [each for each in site.collector.events if each.event_type == EventType.SESSION_RECORDED]
    assert sum(each.session == event.session for each in of_nested) == 1
    assert alone.event.session != event.session


def test_a_flood_loses_neither_what_is_typed_under_it_nor_what_others_see(site: Site) -> None:
    flood, other = site.shell(), site.shell()
    for shell, line in ((flood, b"echo flood; yes flooded | head -c 20000000\n"), (other, b"echo beside\n")):
        assert shell.stdin is not None
        shell.stdin.write(line)
        shell.stdin.flush()
    assert flood.stdin is not None
    assert other.stdin is not None
    assert flood.stdout is not None
    begun = b""
    while b"flooded\r\nflooded" not in begun:
        begun += (piece := flood.stdout.read1())
        assert piece, "the session ended"
    flood.stdin.write(b"echo under-the-flood\nexit\n")
    other.stdin.write(b"seq 1 5000; exit\n")
    others = other.communicate(timeout=60)[0]
    flooded = begun + flood.communicate(timeout=60)[0]
    beside, found = Found(site, b"echo beside"), Found(site, b"echo flood")
    assert beside.cast.shown == others
    assert "truncated" not in beside.event.fields
    assert found.cast.typed == b"echo flood; yes flooded | head -c 20000000\necho under-the-flood\nexit\n"
    assert len(flooded) > 10 * BOUND_BYTES
    assert BOUND_BYTES <= len(found.cast.shown) < 2 * BOUND_BYTES
    assert found.event.fields["truncated"] == "true"
    assert int(found.event.fields["missing_bytes"]) > 10 * BOUND_BYTES
    assert any("not recorded" in remark for remark in found.cast.of("m"))
    dropped = site.wait(lambda event: event.fields.get("reason") == "recording-full")
    assert dropped.event_type == EventType.EVIDENCE_DROPPED


def test_a_tap_that_is_killed_is_succeeded_in_the_middle_of_a_recording(site: Site) -> None:
    shell = site.shell()
    assert shell.stdin is not None
    assert shell.stdout is not None
    lines = [b"echo before-the-kill\n", b"for i in {1..3000}; do echo meanwhile $i; done\n", b"echo after; exit\n"]
    shell.stdin.write(lines[0])
    shell.stdin.flush()
    site.command("echo before-the-kill", interactive="true")
    taps = _taps(site)
    for line in lines[1:]:
        for tap in taps:
            os.kill(tap, signal.SIGKILL)
        shell.stdin.write(line)
        shell.stdin.flush()
        dead = taps
        site.tap.wait_until(lambda dead=dead: bool(set(_taps(site)) - set(dead)), "another tap", timeout_secs=60)
        taps = _taps(site)
    got = shell.communicate(timeout=60)[0]
    found = Found(site, b"echo before-the-kill")
    assert found.cast.shown == got
    assert found.cast.typed == b"".join(lines)
    assert "truncated" not in found.event.fields


def _taps(site: Site) -> list[int]:
    """The taps that the site's supervisor has started and not buried."""
    children = Path(f"/proc/{site.tap.pid}/task/{site.tap.pid}/children").read_text()
    return [int(pid) for pid in children.split()]
