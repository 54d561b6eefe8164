"""The examples of docs/protocols/shipping.md, byte for byte, through both machines."""

import re
from dataclasses import dataclass, field

import pytest

from decnet_core.shipping import receiver as rx
from decnet_core.shipping import sender as tx
from decnet_core.shipping.control import Reason
from decnet_core.shipping.receiver import Receiver
from decnet_core.shipping.sender import Sender
from tests.packaging.wheels import ROOT

TEXT = (ROOT / "docs/protocols/shipping.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```wire\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
STEP = re.compile(r'([CScsLF]) "([^"]*)"(?: {2,}\S.*)?|([DT]) (\d+)(?: {2,}\S.*)?|(N)|E (sender|receiver)')
HELLO = re.compile(rb"\d+ \nHELLO ([0-9a-f]{32})")


@dataclass
class Walk:
    """Two machines, what each has said and nobody has looked at, and what outlives a connection."""

    now: float = 0.0
    file: bytes = b""
    stream: str = ""
    disk: dict[str, int] = field(default_factory=dict)
    stored: int = 0

    def __post_init__(self) -> None:
        self.connect()

    def connect(self) -> None:
        self.sender = Sender(tx.Limits())
        self.receiver = Receiver(rx.Limits(), self.now)
        self.said = {"C": b"", "S": b""}
        self.ended: set[str] = set()

    def step(self, line: str) -> None:
        found = STEP.fullmatch(line)
        assert found is not None, f"not a step: {line!r}"
        who, text, what, number, new, ended = found.groups()
        data = (text or "").replace("␊", "\n").encode()
        match who or what or new or "E":
            case "C":
                self.sender_says(data)
                self.receiver_does(self.receiver.receive(data, self.now))
            case "S":
                assert self.said["S"].startswith(data), (self.said["S"], data)
                self.said["S"] = self.said["S"][len(data) :]
                self.sender_does(self.sender.receive(data, self.now))
            case "c":
                self.receiver_does(self.receiver.receive(data, self.now))
            case "s":
                self.sender_does(self.sender.receive(data, self.now))
            case "F":
                self.file += data
                self.ship()
            case "D":
                self.durable(int(number))
            case "T":
                self.now += int(number)
                self.sender_does(self.sender.tick(self.now))
                self.receiver_does(self.receiver.tick(self.now))
            case "L":
                assert self.said["S"] == data
                self.said["S"] = b""
            case "N":
                assert self.said == {"C": b"", "S": b""}, "nothing is left out"
                self.connect()
            case _:
                assert ended in self.ended

    def sender_says(self, data: bytes) -> None:
        if not self.said["C"] and (hello := HELLO.fullmatch(data)):
            stream = hello[1].decode()
            if stream != self.stream:
                self.file, self.stream = b"", stream
            self.sender_does(self.sender.hello(stream, self.now))
        assert self.said["C"] == data
        self.said["C"] = b""

    def ship(self) -> None:
        if self.sender.state is tx.State.SHIPPING and len(self.file) > self.sender.sent:
            self.sender_does(self.sender.lines(self.file[self.sender.sent :], self.now))

    def durable(self, offset: int) -> None:
        assert offset > self.disk.get(self.stream, 0)
        self.disk[self.stream] = offset
        self.receiver_does(self.receiver.committed(offset))

    def sender_does(self, commands: list[tx.Command]) -> None:
        for command in commands:
            match command:
                case tx.Send(data):
                    self.said["C"] += data
                case tx.End():
                    self.ended.add("sender")
                case tx.Acked(offset):
                    assert offset <= self.disk[self.stream]
                case tx.Begin(offset):
                    assert offset == self.disk.get(self.stream, 0)

    def receiver_does(self, commands: list[rx.Command]) -> None:
        for command in commands:
            match command:
                case rx.Send(data):
                    self.said["S"] += data
                case rx.End():
                    self.ended.add("receiver")
                case rx.Resolve(stream):
                    self.stored = self.disk.get(stream, 0)
                    self.receiver_does(self.receiver.resumed(self.stored))
                case rx.Store(stream, start, end, _) if stream == self.stream:
                    assert start == self.stored < end
                    self.stored = end
                    if self.receiver.state is rx.State.ENDED:  # nothing of it is acknowledged any more, and it counts
                        self.disk[stream] = end


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_machines_say_what_the_specification_shows(example: str) -> None:
    walk = Walk()
    for line in example.splitlines():
        walk.step(line)
    assert walk.said == {"C": b"", "S": b""}, "nothing is left out"


def test_every_control_word_and_reason_stands_in_the_specification() -> None:
    assert len(EXAMPLES) >= 6
    shown = "".join(EXAMPLES)
    for word in ("HELLO", "SKIP", "PING", "RESUME", "ACK", "REFUSE"):
        assert f"␊{word}" in shown
    for reason in Reason:
        assert re.search(rf"^\| `{reason}` \|", TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (tx.Limits().greeting_secs, "RESUME after HELLO | {:.0f} s"),
        (tx.Limits().ack_secs, "an answer to PING | {:.0f} s"),
        (tx.Limits().quiet_secs, "then a PING | {:.0f} s"),
        (tx.Limits().window_bytes >> 20, "at most {} MiB unacknowledged"),
        (rx.Limits().hello_secs, "HELLO after the handshake | {:.0f} s"),
        (rx.Limits().silence_secs, "silence | {:.0f} s"),
    ],
)
def test_the_specification_names_the_bounds_that_the_machines_have(value: float, words: str) -> None:
    assert words.format(value) in TEXT
