"""The two machines, a file, a disk and a link between them, through every crash that hypothesis can think of.

The worker's log is simulated by byte strings (one per generation), the receiver's disk by what was committed. The
link hands over any part of what is in flight, or loses all of it. A crash of either side takes everything that is not
a file or a commit. At the end the receiver holds exactly the file's bytes.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from decnet_core.shipping import receiver as rx
from decnet_core.shipping import sender as tx
from decnet_core.shipping.receiver import Receiver
from decnet_core.shipping.sender import Sender

pytestmark = pytest.mark.long

LIMITS = tx.Limits(window_bytes=40)


@dataclass
class Link:
    """One connection: bytes in flight both ways, and blocks that the receiver has not committed."""

    sender: Sender
    receiver: Receiver
    stream: str
    up: bytes = b""
    down: bytes = b""
    uncommitted: list[rx.Store] = field(default_factory=list)


class Shipping(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.disk: dict[str, bytes] = {}
        self.promised: dict[str, int] = {}
        self.link: Link | None = None
        self.rotate()

    @rule()
    @precondition(lambda self: len(self.files) < 4)
    def rotate(self) -> None:
        self.files[f"{len(self.files):032x}"] = b""

    @rule(lines=st.lists(st.binary(min_size=1, max_size=12).filter(lambda data: b"\n" not in data), max_size=5))
    def write(self, lines: list[bytes]) -> None:
        self.files[list(self.files)[-1]] += b"".join(line + b"\n" for line in lines)

    @rule()
    @precondition(lambda self: self.link is None)
    def connect(self) -> None:
        stream = next(
            (name for name in self.files if self.disk.get(name, b"") != self.files[name]), list(self.files)[-1]
        )
        self.link = Link(Sender(LIMITS), Receiver(rx.Limits(), 0), stream)
        self.sent(self.link.sender.hello(stream, 0))

    @rule()
    @precondition(lambda self: self.link is not None)
    def cut(self) -> None:
        self.link = None

    @rule()
    @precondition(lambda self: self.link is not None)
    def ship(self) -> None:
        assert self.link is not None
        sender, content = self.link.sender, self.files[self.link.stream]
        if sender.room_bytes and sender.sent < len(content):
            block = content[sender.sent : sender.sent + sender.room_bytes]
            whole = block[: block.rfind(b"\n") + 1] or content[sender.sent : content.index(b"\n", sender.sent) + 1]
            self.sent(sender.lines(whole, 0))

    @rule()
    @precondition(lambda self: self.link is not None)
    def next_stream(self) -> None:
        assert self.link is not None
        link, names = self.link, list(self.files)
        at = names.index(link.stream)
        done = link.sender.state is tx.State.SHIPPING and link.sender.acked == len(self.files[link.stream])
        if done and at + 1 < len(names):
            link.stream = names[at + 1]
            self.sent(link.sender.hello(link.stream, 0))

    @rule(data=st.data())
    @precondition(lambda self: self.link is not None and self.link.up)
    def deliver_up(self, data: st.DataObject) -> None:
        assert self.link is not None
        count = data.draw(st.integers(1, len(self.link.up)))
        piece, self.link.up = self.link.up[:count], self.link.up[count:]
        self.received(self.link.receiver.receive(piece, 0))

    @rule(data=st.data())
    @precondition(lambda self: self.link is not None and self.link.down)
    def deliver_down(self, data: st.DataObject) -> None:
        assert self.link is not None
        count = data.draw(st.integers(1, len(self.link.down)))
        piece, self.link.down = self.link.down[:count], self.link.down[count:]
        self.sent(self.link.sender.receive(piece, 0))

    @rule(data=st.data())
    @precondition(lambda self: self.link is not None and self.link.uncommitted)
    def commit(self, data: st.DataObject) -> None:
        assert self.link is not None
        link = self.link
        count = data.draw(st.integers(1, len(link.uncommitted)))
        done, link.uncommitted = link.uncommitted[:count], link.uncommitted[count:]
        for store in done:
            self.durable(store)
        crash_before_ack = data.draw(st.booleans())
        if crash_before_ack:
            self.link = None
        elif done[-1].stream == link.stream or link.receiver.state is rx.State.RESOLVING:
            self.received(link.receiver.committed(done[-1].end))
        self.resume_when_settled()

    def durable(self, store: rx.Store) -> None:
        assert store.start == len(self.disk.get(store.stream, b"")), "a gap or an overlap"
        self.disk[store.stream] = self.disk.get(store.stream, b"") + store.data

    def resume_when_settled(self) -> None:
        link = self.link
        if link is not None and link.receiver.state is rx.State.RESOLVING and not link.uncommitted:
            self.received(link.receiver.resumed(len(self.disk.get(link.receiver.stream, b""))))

    def sent(self, commands: list[tx.Command]) -> None:
        assert self.link is not None
        for command in commands:
            match command:
                case tx.Send(data):
                    self.link.up += data
                case tx.Acked(offset):
                    self.promised[self.link.stream] = offset
                case tx.Begin(offset):
                    assert offset <= len(self.files[self.link.stream])
                case _:
                    raise AssertionError(command)

    def received(self, commands: list[rx.Command]) -> None:
        assert self.link is not None
        for command in commands:
            match command:
                case rx.Send(data):
                    self.link.down += data
                case rx.Store():
                    self.link.uncommitted.append(command)
                case rx.Resolve():
                    self.resume_when_settled()
                case _:
                    raise AssertionError(command)

    @invariant()
    def nothing_is_promised_that_is_not_durable(self) -> None:
        for stream, offset in self.promised.items():
            assert offset <= len(self.disk.get(stream, b""))
        for stream, stored in self.disk.items():
            assert self.files[stream].startswith(stored)

    def teardown(self) -> None:
        """Without further faults everything arrives."""
        self.link = None
        for stream, content in self.files.items():
            self.connect()
            for _ in range(10 * len(content) + 10):
                if self.disk == {name: data for name, data in self.files.items() if data}:
                    break
                self.step()
            assert self.disk.get(stream, b"") == content

    def step(self) -> None:
        assert self.link is not None
        link = self.link
        self.ship()
        self.next_stream()
        up, link.up = link.up, b""
        self.received(link.receiver.receive(up, 0))
        for store in link.uncommitted:
            self.durable(store)
            self.received(link.receiver.committed(store.end))
        link.uncommitted = []
        self.resume_when_settled()
        down, link.down = link.down, b""
        self.sent(link.sender.receive(down, 0))


Shipping.TestCase.settings = settings(stateful_step_count=60)
TestShipping = Shipping.TestCase
