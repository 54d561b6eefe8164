"""Control frames and the two machines of the shipping protocol, as scripts of what peers and callers do.

A script is operations separated by 0xFE, the first byte of each says which; whatever is none of the few known ones is
bytes from the peer, and these are fed whole, in small pieces and byte by byte: the commands must be the same. (Only the
words about a bad length may differ: of `12345678x` the first wrong thing that is seen depends on how much is seen.)
"""

from __future__ import annotations

from typing import Any

from decnet_core.errors import LocalProtocolError, RemoteProtocolError
from decnet_core.shipping import receiver, sender
from decnet_core.shipping.control import (
    MAX_OFFSET,
    Ack,
    Hello,
    Ping,
    Reason,
    Refuse,
    Resume,
    Skip,
    decode_control,
    encode_control,
    is_control,
)
from decnet_core.syslog.framing import FrameDecoder, encode_frame, encode_frames
from tests.fuzz.target import Target, chunks, hold, is_refusal, outcome

_STREAM = "00112233445566778899aabbccddeeff"
_SEPARATOR = b"\xfe"
_WHOLE = 1 << 30


def control(data: bytes) -> None:
    """A payload is a control frame in exactly one spelling, or none."""
    word = outcome(decode_control, data, RemoteProtocolError)
    if not is_refusal(word):
        hold(encode_control(word) == encode_frame(data), "a control frame has two spellings")


def receive(script: bytes) -> None:
    """Run the receiver's machine."""
    whole = _Receiving(_WHOLE).run(script)
    hold(_Receiving(5).run(script) == whole, "the receiver does something else with the same bytes in small pieces")
    hold(_Receiving(1).run(script) == whole, "the receiver does something else with the same bytes one by one")


def send(script: bytes) -> None:
    """Run the sender's machine."""
    whole = _Sending(_WHOLE).run(script)
    hold(_Sending(5).run(script) == whole, "the sender does something else with the same bytes in small pieces")
    hold(_Sending(1).run(script) == whole, "the sender does something else with the same bytes one by one")


class _Receiving:
    """Executes a receiver's commands as a listener would, and writes down what it was told to do."""

    def __init__(self, piece_bytes: int) -> None:
        self._piece_bytes = piece_bytes
        self._machine = receiver.Receiver(receiver.Limits(), 0.0)
        self._now = 0.0
        self._stored: list[Any] = []  # what a journal holds: [stream, start, bytes or hole] with neighbours joined
        self._said: list[Any] = []
        self._end = self._durable = self._acked = 0
        self._is_resolving = False
        self._stream = ""

    def run(self, script: bytes) -> tuple[Any, ...]:
        for operation in script.split(_SEPARATOR):
            self._operate(operation[:1], operation[1:])
            hold(self._machine.pending_bytes == self._end - self._durable, "the pending bytes are miscounted")
        return self._stored, self._said, self._machine.state

    def _operate(self, which: bytes, rest: bytes) -> None:
        machine = self._machine
        match which:
            case b"\x01" if self._is_resolving:
                self._is_resolving = False
                self._end = self._durable = self._acked = int.from_bytes(rest[:8]) & MAX_OFFSET
                self._take(machine.resumed(self._durable))
            case b"\x02" if machine.state is not receiver.State.ENDED:
                self._durable += (self._end - self._durable) // (1 + (rest[0] if rest else 0))
                self._take(machine.committed(self._durable))
            case b"\x03":
                self._now += int.from_bytes(rest[:2]) / 100
                self._take(machine.tick(self._now))
            case b"\x04":
                self._take(machine.refuse(Reason.BUSY))
            case _:
                for piece in chunks(which + rest, self._piece_bytes):
                    self._take(machine.receive(piece, self._now))

    def _take(self, commands: list[receiver.Command]) -> None:
        for command in commands:
            match command:
                case receiver.Store():
                    self._store(command)
                case receiver.Resolve(stream):
                    self._is_resolving, self._stream = True, stream
                    self._said.append(("resolve", stream))
                case receiver.Send(data):
                    self._hear(data)
                case receiver.End(error):
                    self._is_resolving = False
                    self._said.append(("end", type(error)))
                    hold(self._machine.state is receiver.State.ENDED, "an end is not the end")

    def _store(self, command: receiver.Store) -> None:
        hold(command.stream == self._stream, "a block is of another stream")
        hold(command.start == self._end < command.end <= MAX_OFFSET, "a block does not follow the one before")
        hold(not command.data or command.end - command.start == len(command.data), "a block is miscounted")
        hold(not command.data or command.data.endswith(b"\n"), "a block ends inside a line")
        hold(b"\n\n" not in command.data and command.data[:1] != b"\n", "an empty line came out of frames")
        self._end = command.end
        last = self._stored[-1] if self._stored else None
        if last and last[0] == command.stream and last[2] and command.data and last[1] + len(last[2]) == command.start:
            last[2] += command.data
        else:
            self._stored.append([command.stream, command.start, command.data or None])

    def _hear(self, data: bytes) -> None:
        (payload,) = FrameDecoder(256).feed(data)
        word = decode_control(payload)
        match word:
            case Ack(offset):
                hold(self._acked <= offset <= self._durable, "an ACK goes back, or beyond what is durable")
                self._acked = offset
            case Resume(offset):
                hold(offset == self._durable, "RESUME names another offset than the journal's")
        self._said.append(word)


class _Sending:
    """Drives a sender as logship would."""

    def __init__(self, piece_bytes: int) -> None:
        self._piece_bytes = piece_bytes
        self._machine = sender.Sender(sender.Limits())
        self._now = 0.0
        self._said: list[Any] = []
        self._begun = 0

    def run(self, script: bytes) -> tuple[Any, ...]:
        machine = self._machine
        for operation in script.split(_SEPARATOR):
            self._operate(operation[:1], operation[1:])
            hold(self._begun <= machine.acked <= machine.sent, "acknowledged is more than sent")
        return self._said, machine.state, machine.acked, machine.sent

    def _operate(self, which: bytes, rest: bytes) -> None:
        machine, before = self._machine, (self._machine.state, self._machine.acked, self._machine.sent)
        try:
            match which:
                case b"\x01":
                    self._take(machine.hello(_STREAM, self._now))
                case b"\x02":
                    block = rest.replace(b"\xfd", b"\n") + b"\n"
                    commands = machine.lines(block, self._now)
                    self._hold_to_block(commands, block, before[2])
                    self._take(commands)
                case b"\x03":
                    self._take(machine.skip(int.from_bytes(rest[:8]), self._now))
                case b"\x04":
                    self._now += int.from_bytes(rest[:2]) / 100
                    self._take(machine.tick(self._now))
                case _:
                    for piece in chunks(which + rest, self._piece_bytes):
                        self._take(machine.receive(piece, self._now))
        except LocalProtocolError:
            after = (machine.state, machine.acked, machine.sent)
            hold(
                which in {b"\x01", b"\x02", b"\x03"} and after == before,
                "a call that was refused left something behind",
            )

    def _hold_to_block(self, commands: list[sender.Command], block: bytes, start: int) -> None:
        """The frames and the holes of a block are the block."""
        rebuilt = b""
        decoder = FrameDecoder(1 << 20)
        for command in commands:
            match command:
                case sender.Send(data):
                    for payload in decoder.feed(data):
                        word = decode_control(payload) if is_control(payload) else None
                        rebuilt += b"\n" * word.length if isinstance(word, Skip) else payload + b"\n"
                case sender.Skipped(offset, length):
                    hold(offset + length == start + len(rebuilt), "a hole is somewhere else")
        hold(rebuilt == block, "what is sent is not the block")
        hold(self._machine.sent == start + len(block), "what is sent is miscounted")

    def _take(self, commands: list[sender.Command]) -> None:
        for command in commands:
            if isinstance(command, sender.Begin):
                self._begun = command.offset
            elif isinstance(command, sender.End):
                hold(self._machine.state is sender.State.ENDED, "an end is not the end")
            if isinstance(command, sender.End):
                self._said.append(("end", type(command.error)))
            else:
                self._said.append(command)


_HELLO = encode_control(Hello(_STREAM))
_LINES = encode_frames([b"<13>1 - - - - - -", b"two", b"three"])
_WORDS = tuple(
    encode_control(word)
    for word in (
        Hello(_STREAM), Ping(), Skip(1), Skip(MAX_OFFSET), Resume(0), Resume(7), Resume(MAX_OFFSET), Ack(0), Ack(28),
        Refuse("busy"), Refuse("new-word"),
    )
)  # fmt: skip
_OPERATIONS = tuple(_SEPARATOR + bytes([which]) for which in (1, 2, 3, 4))


def _script(*operations: bytes) -> bytes:
    return _SEPARATOR.join(operations)


TARGETS = (
    Target(
        "control", control, tuple(word.partition(b" ")[2] for word in _WORDS), (b"\n", b"ACK ", b"HELLO ", b"SKIP ")
    ),
    Target(
        "receiver",
        receive,
        (
            _script(_HELLO, b"\x01" + b"\0" * 8, _LINES + _WORDS[1] + _LINES, b"\x02", _WORDS[2] + _LINES, b"\x02"),
            _script(_HELLO, b"\x01" + b"\0\0\0\0\0\0\1\0", _LINES, b"\x02\x01", _HELLO, b"\x02", b"\x01", _LINES),
            _script(_HELLO, b"\x01" + b"\x7f" + b"\xff" * 6 + b"\xf0", _LINES, _WORDS[3]),
            _script(_HELLO, b"\x01", _LINES, b"\x03\xff\xff", _LINES),
            _script(_HELLO, b"\x04", _LINES),
        ),
        (*_WORDS, *_OPERATIONS, _LINES, _SEPARATOR, b"2 \n\n", b"3 a\nb"),
        30,
    ),
    Target(
        "sender",
        send,
        (
            _script(b"\x01", _WORDS[4], b"\x02one\xfdtwo", b"\x02\xfd\xfdx", encode_control(Ack(8)), b"\x04\xff\xff"),
            _script(b"\x01", _WORDS[5], b"\x02" + b"<13>1 - - - - - -", encode_control(Ack(25)), b"\x01", _WORDS[4]),
            _script(b"\x01", _WORDS[6], b"\x02x", b"\x03\0\0\0\0\0\0\0\x05", _WORDS[7]),
            _script(b"\x01", _WORDS[9]),
            _script(b"\x01", _WORDS[4], b"\x04\x08\0", b"\x04\x20\0"),
        ),
        (*_WORDS, *_OPERATIONS, b"\xfd", _SEPARATOR),
        30,
    ),
)
