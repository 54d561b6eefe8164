"""The kernel's programs for real, with a namespace of our own as a decky: nothing is lost, nothing is forged."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from decnet_agent.tap import capabilities, decoding, kernel, procs
from decnet_agent.tap.decoding import Record
from decnet_agent.tap.probes import KernelProbes
from decnet_agent.tap.programs import LONG_ARGUMENTS_BYTES, Kind

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for BPF and fanotify"),
]


@pytest.fixture
def probes() -> Iterator[KernelProbes]:
    made = KernelProbes()
    yield made
    made.close()


class Room:
    """A shell that is the first process of a pid namespace and runs what it reads."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "/bin/bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.say("echo ready")
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self.pid1 = int(children.split()[0])

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def run(self, line: str) -> None:
        """Have a line run, and wait until it is done."""
        self.say(f"{line}; echo done")
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"done\n"

    def end(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room()
    yield made
    made.end()


def _until_exited(probes: KernelProbes, pid: int) -> list[Record]:
    """Collect records until that process ended."""
    records: list[Record] = []
    poll = select.epoll()
    poll.register(probes.fd, select.EPOLLIN)
    try:
        while not any(record.kind is Kind.EXITED and record.pid == pid for record in records):
            assert poll.poll(20), "no record for 20 s"
            records += [decoding.decode(data) for data in probes.read(10_000)]
            probes.consume()
    finally:
        poll.close()
    return records


def _commands(records: list[Record]) -> list[list[bytes]]:
    return [decoding.arguments(record) for record in records if record.kind is Kind.EXECUTED]


def _descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def watch(probes: KernelProbes, room: Room) -> int:
    namespace = procs.namespace_of(room.pid1)
    assert namespace is not None
    probes.watch(namespace)
    return namespace


def test_a_thousand_quick_commands_are_all_told_with_their_arguments(probes: KernelProbes, room: Room) -> None:
    watch(probes, room)
    room.say("for i in {1..1000}; do /bin/true $i; done; exit")
    records = _until_exited(probes, room.pid1)
    assert _commands(records) == [[b"/bin/true", str(number).encode()] for number in range(1, 1001)]
    assert probes.lost() == 0


def test_what_an_attacker_writes_into_arguments_stays_there(probes: KernelProbes, room: Room) -> None:
    watch(probes, room)
    room.say("/bin/true $'a\\nb\\x01\\xff' ''; /bin/true $(printf %0100000d 0) end; exit")
    hostile, long = [record for record in _until_exited(probes, room.pid1) if record.kind is Kind.EXECUTED]
    assert decoding.arguments(hostile) == [b"/bin/true", b"a\nb\x01\xff", b""]
    assert len(long.text) == LONG_ARGUMENTS_BYTES
    assert long.text_bytes == len("/bin/true") + 1 + 100_000 + 1 + len("end") + 1


@pytest.mark.parametrize(("address", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_the_connection_on_standard_input_is_told(
    probes: KernelProbes, room: Room, address: str, family: socket.AddressFamily
) -> None:
    watch(probes, room)
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        room.say(f"/bin/true <>/dev/tcp/{address}/{port}; /bin/true </dev/null; /bin/true <<< text; exit")
        peer, (_, own_port, *_) = server.accept()
        records = _until_exited(probes, room.pid1)
        peer.close()
    connected, nothing, pipe = [record for record in records if record.kind is Kind.EXECUTED]
    assert connected.flow == decoding.Flow(address, port, address, own_port)
    assert (nothing.flow, pipe.flow) == (None, None)


def test_other_processes_of_the_host_are_not_told(probes: KernelProbes, room: Room) -> None:
    watch(probes, room)
    subprocess.run(["/bin/true", "outside"], check=True)
    room.say("exit")
    assert _commands(_until_exited(probes, room.pid1)) == []


def test_records_agree_with_proc(probes: KernelProbes, room: Room) -> None:
    namespace = watch(probes, room)
    room.say("/bin/sleep 100 & echo up")
    assert room._process.stdout is not None
    room._process.stdout.readline()
    found: dict[int, Record] = {}

    def both_told() -> bool:
        for data in probes.read(1000):
            record = decoding.decode(data)
            if record.kind is Kind.EXECUTED:
                found[record.pid] = record
        probes.consume()
        return bool(found)

    poll = select.epoll()
    poll.register(probes.fd, select.EPOLLIN)
    while not both_told():
        assert poll.poll(20)
    poll.close()
    (told,) = found.values()
    seen = {record.pid: record for record in procs.running(namespace)}[told.pid]
    assert (seen.decky_pid, seen.parent, seen.uid, seen.name) == (told.decky_pid, told.parent, told.uid, told.name)
    assert told.parent == room.pid1
    assert seen.started_ns // 10_000_000 == told.started_ns // 10_000_000
    assert seen.parent_started_ns // 10_000_000 == told.parent_started_ns // 10_000_000
    room.say("kill %1; exit")


def test_a_flood_that_nobody_reads_is_counted(probes: KernelProbes, room: Room) -> None:
    watch(probes, room)
    room.say("long=$(printf %015000d 0); for i in {1..800}; do /bin/true $long; done; exit")
    room.end()
    told = sum(1 for data in probes.read(100_000) if decoding.decode(data).kind is Kind.EXECUTED)
    lost = probes.lost()
    assert lost > 0
    assert told + lost >= 800


def test_nothing_stays_in_the_kernel() -> None:
    before = _descriptors()
    made = KernelProbes()
    made.close()
    assert _descriptors() == before


def test_the_doctors_facts_are_tried_for_real() -> None:
    facts = capabilities.probe_kernel()
    assert [(name, why) for name, ok, why in facts if not ok] == []
    assert {name for name, _, _ in facts} >= {"tracepoints", "uprobes", "fanotify"}


def test_a_program_that_the_verifier_refuses_is_our_bug() -> None:
    with pytest.raises(kernel.LocalProtocolError):
        kernel.load_tracepoint_program(b"\xff" * 8)
