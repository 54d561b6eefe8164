"""Which session a process belongs to, whatever it does to its name, its parent and its server."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.tap import attribution
from decnet_agent.tap.attribution import Process, ProcessTable
from decnet_agent.tap.decoding import Flow
from decnet_agent.tap.programs import Kind
from tests.tap.records import SECOND, packed, record

FLOW = Flow("10.0.0.9", 40000, "10.0.0.1", 22)
OTHER = Flow("10.0.0.8", 41000, "10.0.0.1", 22)


def _fork(table: ProcessTable, pid: int, parent: int, name: bytes = b"sshd") -> Process:
    return table.forked(
        record(
            Kind.FORKED, pid=pid, started_ns=pid * SECOND, parent=parent, parent_started_ns=parent * SECOND, name=name
        )
    )


def _exec(table: ProcessTable, pid: int, file: bytes, *words: bytes, terminal: bool = False) -> Process:
    text = b"".join(word + b"\0" for word in words)
    name = file.rpartition(b"/")[2][:15]
    return table.executed(
        record(Kind.EXECUTED, pid=pid, started_ns=pid * SECOND, file=file, text=text, name=name, terminal=terminal)
    )


def _listener(table: ProcessTable) -> None:
    table.found(record(Kind.FORKED, pid=10, started_ns=10 * SECOND, name=b"sshd", file=b"/usr/sbin/sshd"))


def _login(table: ProcessTable, root: int = 20, flow: Flow = FLOW) -> Process:
    return table.connected(_fork(table, root, 10), "c0ffee", [flow])


def test_a_connections_server_begins_a_session_and_its_children_are_in_it() -> None:
    table = ProcessTable()
    _listener(table)
    root = _login(table)
    _fork(table, 21, 20)
    shell = _exec(table, 21, b"/bin/bash", b"bash", b"-c", b"id")
    assert root.session is not None
    assert root.serving
    assert shell.session == root.session
    assert not shell.serving
    assert attribution.writer(shell) == "bash < sshd < sshd"


def test_the_server_itself_and_daemons_are_in_no_session() -> None:
    table = ProcessTable()
    _listener(table)
    cron = table.found(record(Kind.FORKED, pid=11, started_ns=11 * SECOND, name=b"cron", file=b"/usr/sbin/cron"))
    assert cron.session is None
    assert _fork(table, 12, 11, b"cron").session is None
    listener = table.find(10)
    assert listener is not None
    assert listener.session is None


def test_a_daemon_of_the_attacker_stays_his_when_its_parents_are_gone() -> None:
    table = ProcessTable()
    _listener(table)
    session = _login(table).session
    _fork(table, 21, 20)
    _exec(table, 21, b"/bin/bash", b"-bash", terminal=True)
    _fork(table, 22, 21, b"bash")
    table.exited(record(Kind.EXITED, pid=21, started_ns=21 * SECOND))
    orphan = _exec(table, 22, b"/tmp/.x", b"[kworker/0:1]")
    assert orphan.session == session
    assert _fork(table, 23, 22, b"sshd").session == session


def test_a_program_named_like_the_server_is_not_the_server() -> None:
    table = ProcessTable()
    _listener(table)
    _login(table)
    _fork(table, 21, 20)
    _exec(table, 21, b"/bin/bash", b"bash", b"-c", b"./sshd")
    _fork(table, 22, 21, b"bash")
    assert not _exec(table, 22, b"/tmp/sshd", b"sshd").serving
    # … nor is the real one when it is started from within a session: that is a command of the attacker's.
    _fork(table, 23, 21, b"bash")
    assert not _exec(table, 23, b"/usr/sbin/sshd", b"/usr/sbin/sshd").serving


def test_visitors_of_a_server_that_an_attacker_restarted_get_their_own_session() -> None:
    table = ProcessTable()
    _listener(table)
    first = _login(table).session
    _fork(table, 21, 20)
    _exec(table, 21, b"/bin/bash", b"bash", b"-c", b"service ssh restart")
    _fork(table, 30, 21, b"sshd")
    visitor = table.connected(_fork(table, 31, 30), "c0ffee", [OTHER])
    assert visitor.session is not None
    assert visitor.session != first
    assert visitor.session.flow == OTHER
    assert visitor.serving


def test_a_server_that_also_forwards_keeps_its_own_connection() -> None:
    table = ProcessTable()
    _listener(table)
    root = _login(table)
    child = table.connected(_fork(table, 21, 20), "c0ffee", [Flow("10.0.0.7", 1, "10.0.0.1", 21), FLOW])
    assert child.session == root.session


def test_a_session_has_the_same_id_after_a_restart_of_the_tap() -> None:
    def once(started_ns: int) -> str:
        table = ProcessTable()
        _listener(table)
        found = table.found(record(Kind.FORKED, pid=20, started_ns=started_ns, name=b"sshd", file=b"/usr/sbin/sshd"))
        session = table.connected(found, "c0ffee", [FLOW]).session
        assert session is not None
        return session.id

    # /proc knows hundredths of a second, the kernel's records nanoseconds
    assert once(20 * SECOND + 1234567) == once(20 * SECOND)


def test_profile_scripts_are_marked_until_the_first_prompt() -> None:
    table = ProcessTable()
    _listener(table)
    _login(table)
    _fork(table, 21, 20)
    assert _exec(table, 21, b"/bin/bash", b"-bash", terminal=True).starting
    assert _fork(table, 22, 21, b"bash").starting
    table.prompted(record(Kind.PROMPTED, pid=21, started_ns=21 * SECOND))
    assert not _fork(table, 23, 21, b"bash").starting


def test_a_login_shell_without_a_terminal_runs_what_its_user_sends() -> None:
    table = ProcessTable()
    _listener(table)
    _login(table)
    _fork(table, 21, 20)
    assert not _exec(table, 21, b"/bin/bash", b"-bash").starting


def test_the_servers_greeting_helpers_are_marked() -> None:
    table = ProcessTable()
    _listener(table)
    _login(table)
    _fork(table, 21, 20)
    greeting = b"/usr/bin/env -i PATH=/bin run-parts --lsbsysinit /etc/update-motd.d > /run/motd.dynamic.new"
    assert _exec(table, 21, b"/bin/sh", b"sh", b"-c", greeting).starting
    assert _fork(table, 22, 21, b"sh").starting


def test_a_reused_pid_is_another_process() -> None:
    table = ProcessTable()
    _listener(table)
    _login(table)
    stranger = table.forked(record(Kind.FORKED, pid=20, started_ns=99 * SECOND, parent=1, name=b"cron"))
    assert stranger.session is None
    assert table.exited(record(Kind.EXITED, pid=20, started_ns=20 * SECOND)) is None


def test_ended_processes_are_remembered_for_a_while_and_no_longer() -> None:
    table = ProcessTable()
    for pid in range(100, 100 + attribution.MAX_ENDED + 10):
        _fork(table, pid, 1)
        table.exited(record(Kind.EXITED, pid=pid, started_ns=pid * SECOND))
    assert table.find(100) is None
    assert table.find(100 + attribution.MAX_ENDED) is not None
    assert len(table) == attribution.MAX_ENDED


EVENTS = st.lists(
    st.tuples(st.sampled_from(["fork", "exec", "exit", "connect"]), st.integers(20, 30), st.integers(20, 30)),
    max_size=60,
)


@given(EVENTS)
def test_a_process_is_in_a_session_only_through_a_connection(events: list[tuple[str, int, int]]) -> None:
    """Whatever happens in whatever order."""
    table = ProcessTable()
    connected = False
    for what, pid, parent in events:
        match what:
            case "fork":
                _fork(table, pid, parent)
            case "exec":
                assert not _exec(table, pid, b"/bin/id", b"id").serving
            case "exit":
                table.exited(record(Kind.EXITED, pid=pid, started_ns=pid * SECOND))
            case "connect" if (process := table.find(pid)) is not None:
                connected = True
                assert table.connected(process, "c0ffee", [FLOW]).session is not None
    if not connected:
        assert all((process := table.find(pid)) is None or process.session is None for pid in range(20, 31))


def test_records_are_packed_as_the_kernel_does() -> None:
    assert len(packed(Kind.FORKED)) == 80
