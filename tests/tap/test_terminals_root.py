"""The program that watches terminals for real, with a namespace of our own as a decky: exact, bounded, fair."""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from decnet_agent.tap.holdings import Holdings
from decnet_agent.tap.probes import KernelProbes
from decnet_agent.tap.terminal_probes import RING_BYTES, TerminalProbes, TerminalRecord, decode
from decnet_agent.tap.terminal_programs import HEADER_BYTES, SMALL_BYTES, Kind

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for BPF")]

SERVER = r"""
import fcntl, json, os, pty, select, struct, sys, termios
print(os.getpid(), flush=True)
pairs = {}
for line in sys.stdin:
    what, *words = json.loads(line)
    answer = None
    if what == "open":
        master, slave = pty.openpty()
        settings = termios.tcgetattr(slave)
        settings[1] &= ~termios.OPOST
        settings[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        pairs[words[0]] = [master, slave]
    elif what == "show":
        left = words[1]
        while left:
            left -= os.write(pairs[words[0]][1], b"s" * min(left, 2048))
            shown = 0
            while select.select([pairs[words[0]][0]], [], [], 0)[0]:
                shown += len(os.read(pairs[words[0]][0], 65536))
    elif what == "type":
        os.write(pairs[words[0]][0], words[1].encode())
    elif what == "size":
        fcntl.ioctl(pairs[words[0]][0], termios.TIOCSWINSZ, struct.pack("HHHH", words[2], words[1], 0, 0))
    elif what == "close":
        os.close(pairs[words[0]][1])
        try:
            os.read(pairs[words[0]][0], 1)
        except OSError as cause:
            answer = cause.errno
        os.close(pairs[words[0]][0])
    print(json.dumps(answer), flush=True)
"""


class Server:
    """The first process of a pid namespace, which holds terminals as a login server does."""

    def __init__(self) -> None:
        argv = ["unshare", "--pid", "--fork", "--kill-child", "python3", "-c", SERVER]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "1\n"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self.pid = int(children.split()[0])
        self.namespace = Path(f"/proc/{self.pid}/ns/pid").stat().st_ino

    def do(self, *words: object) -> object:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.end()


@pytest.fixture
def probes(server: Server) -> Iterator[TerminalProbes]:
    processes = KernelProbes()
    made = TerminalProbes(Holdings(), processes.maps, continued=False)
    processes.watch(server.namespace)
    yield made
    made.close()
    processes.close()


def _taken(probes: TerminalProbes) -> list[TerminalRecord]:
    records = [decode(data) for data in probes.read(1_000_000)]
    probes.consume()
    return records


def test_what_is_shown_typed_and_done_to_a_terminal_is_told_in_order(probes: TerminalProbes, server: Server) -> None:
    server.do("open", "a")
    server.do("size", "a", 100, 30)
    server.do("type", "a", "typed")
    server.do("show", "a", 5000)
    assert server.do("close", "a") == 5
    records = _taken(probes)
    kinds = [record.kind for record in records]
    assert kinds[:3] == [Kind.OPENED, Kind.RESIZED, Kind.TYPED]
    assert set(kinds[3:-1]) == {Kind.SHOWN}
    assert kinds[-1] == Kind.ENDED
    assert records[2].data == b"typed"
    assert b"".join(record.data for record in records if record.kind is Kind.SHOWN) == b"s" * 5000
    assert {(record.columns, record.rows) for record in records[1:]} == {(100, 30)}
    assert {(record.pid, record.namespace) for record in records} == {(server.pid, server.namespace)}
    assert len({(record.terminal, record.number, record.started_ns) for record in records}) == 1
    assert [record.at_ns for record in records] == sorted(record.at_ns for record in records)


def test_nobody_else_s_terminals_are_told_of(probes: TerminalProbes) -> None:
    mine = Server()
    mine.do("open", "a")
    mine.do("type", "a", "not of a decky")
    mine.end()
    assert _taken(probes) == []


def test_a_flood_takes_no_room_from_what_is_typed_nor_from_others(probes: TerminalProbes, server: Server) -> None:
    server.do("open", "flood")
    server.do("open", "other")
    server.do("show", "flood", 2 * RING_BYTES)  # nobody reads the ring meanwhile
    server.do("type", "flood", "typed under it")
    server.do("show", "other", 100_000)
    by_terminal: dict[tuple[int, Kind], bytes] = defaultdict(bytes)
    for record in _taken(probes):
        by_terminal[record.terminal, record.kind] += record.data
    sizes = sorted(len(data) for (_, kind), data in by_terminal.items() if kind is Kind.SHOWN)
    assert sizes[0] == 100_000
    assert RING_BYTES // 16 < sizes[1] < RING_BYTES // 4
    assert [data for (_, kind), data in by_terminal.items() if kind is Kind.TYPED] == [b"typed under it"]
    # What was lost is known from the next thing that is shown, to the byte.
    server.do("show", "flood", 1)
    (record,) = _taken(probes)
    assert record.data == b"s"
    assert record.missing_bytes == 2 * RING_BYTES - sizes[1]


def test_however_many_flood_there_is_room_for_one_more(probes: TerminalProbes, server: Server) -> None:
    for number in range(12):
        server.do("open", f"flood {number}")
        server.do("show", f"flood {number}", RING_BYTES // 4)
    server.do("open", "late")
    server.do("type", "late", "room for me")
    records = _taken(probes)
    assert records[-1].data == b"room for me"
    taken = sum(HEADER_BYTES + SMALL_BYTES + len(record.data) for record in records)
    assert taken < 2 * RING_BYTES
