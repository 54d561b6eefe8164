"""The receiver's machine: events in, commands out.

    state       event                 next        commands
    WAITING     HELLO                 RESOLVING   Resolve(stream)
    RESOLVING   resumed               OPEN        Send(RESUME)
    RESOLVING   committed             RESOLVING   Send(ACK) of the stream before
    OPEN        lines, SKIP           OPEN        Store(block)
    OPEN        committed             OPEN        Send(ACK) when it moved
    OPEN        PING                  OPEN        Send(ACK) of what is durable
    OPEN        HELLO                 RESOLVING   Resolve(stream)
    any but ENDED   refuse            ENDED       Send(REFUSE), End
    any but ENDED   tick              the same; ENDED, Send(REFUSE), End when a timeout is over
    any but ENDED   any other bytes   ENDED       Send(REFUSE protocol), End(RemoteProtocolError)
    ENDED       anything              ENDED       (nothing)

Invariants
- Blocks of a stream follow one another from the offset that `resumed` gave: frames carry no offsets.
- An ACK never names an offset beyond what `committed` or `resumed` said, and never goes back.
- RESUME is sent once everything that this or an older connection stored of the stream is decided: the caller answers
  `Resolve` with `resumed` only after he has shut the older one out and awaited its commits.
- Frames before a broken one in the same bytes are stored: a sender with one bad frame still makes progress to it.

Memory: an unfinished frame is bounded by `MAX_LINE_BYTES`; blocks not yet committed are the caller's to bound
(`pending_bytes`), by reading no further.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from decnet_core.errors import LocalProtocolError, RemoteProtocolError, Unavailable
from decnet_core.shipping.control import (
    MAX_LINE_BYTES,
    MAX_OFFSET,
    Hello,
    Ping,
    Reason,
    Refuse,
    Resume,
    Skip,
    decode_control,
    encode_ack,
    encode_control,
    is_control,
)
from decnet_core.syslog.framing import FrameDecoder


class State(Enum):
    """Where a connection stands."""

    WAITING = auto()
    RESOLVING = auto()
    OPEN = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes to the connection."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Resolve:
    """Find out from where the stream goes on, then call `resumed` or `refuse`."""

    stream: str


@dataclass(frozen=True, slots=True)
class Store:
    """Make this durable, then call `committed`: the lines [start, end) with their LFs, or a hole without data."""

    stream: str
    start: int
    end: int
    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """Close the connection, after what was to be sent."""

    error: RemoteProtocolError | Unavailable


Command = Send | Resolve | Store | End


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a sender may be silent: before its HELLO, and later (it pings every 20 s)."""

    hello_secs: float = 15.0
    silence_secs: float = 120.0


class Receiver:
    """One connection's receiving side."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._decoder = FrameDecoder(MAX_LINE_BYTES)
        self.state = State.WAITING
        self.stream = ""
        self._stored = 0  # end of the last Store
        self._durable = 0
        self._acked = 0
        self._heard_at = now

    @property
    def pending_bytes(self) -> int:
        """Bytes of the stream that were handed out to be stored and are not committed."""
        return self._stored - self._durable

    def receive(self, data: bytes, now: float) -> list[Command]:
        """Take bytes from the connection."""
        if self.state is State.ENDED:
            return []
        self._heard_at = now
        commands: list[Command] = []
        try:
            self._frames(self._decoder.feed(data), commands)
        except RemoteProtocolError as error:
            return commands + self._end(Reason.PROTOCOL, error)
        if self._decoder.error is not None:
            commands += self._end(Reason.PROTOCOL, self._decoder.error)
        return commands

    def resumed(self, offset: int) -> list[Command]:
        """Answer a Resolve: everything before `offset` is durable, and nobody else adds to the stream now.

        Raises:
            LocalProtocolError: there was no Resolve.
        """
        if self.state is State.ENDED:
            return []
        if self.state is not State.RESOLVING:
            raise LocalProtocolError("RESUME without HELLO")
        self.state = State.OPEN
        self._stored = self._durable = self._acked = offset
        return [Send(encode_control(Resume(offset)))]

    def committed(self, offset: int) -> list[Command]:
        """Say that everything before `offset` of the stream is durable now.

        Raises:
            LocalProtocolError: it goes back, or beyond what was stored.
        """
        if self.state is State.ENDED:
            return []
        if not self._durable <= offset <= self._stored:
            raise LocalProtocolError(f"Committed to {offset}, stored are {self._durable} to {self._stored}")
        self._durable = offset
        return [self._ack()] if offset > self._acked else []

    def refuse(self, reason: Reason) -> list[Command]:
        """End the connection, telling the sender why."""
        if self.state is State.ENDED:
            return []
        return self._end(reason, Unavailable(f"The connection was refused: {reason}"))

    def tick(self, now: float) -> list[Command]:
        """Let time pass: give up a sender that is silent for too long. Call it about once a second."""
        waiting = self.state is State.WAITING
        silence = now - self._heard_at
        if self.state is State.ENDED or silence <= (self._limits.hello_secs if waiting else self._limits.silence_secs):
            return []
        return self._end(Reason.BUSY, Unavailable("The sender was silent for too long"))

    def _frames(self, payloads: list[bytes], commands: list[Command]) -> None:
        if self.state is State.OPEN and payloads:
            # The usual case, in two passes without a step for each line: no payload holds an LF, so all are lines.
            data = b"\n".join((*payloads, b""))
            if data.count(b"\n") == len(payloads):
                self._store_data(data, commands)
                return
        lines: list[bytes] = []
        for payload in payloads:
            if is_control(payload):
                self._store_lines(lines, commands)
                lines = []
                self._control(payload, commands)
            else:
                lines.append(payload)
        self._store_lines(lines, commands)

    def _store_lines(self, lines: list[bytes], commands: list[Command]) -> None:
        if not lines:
            return
        if self.state is not State.OPEN:
            raise RemoteProtocolError("A line came before RESUME")
        data = b"\n".join((*lines, b""))
        if data.count(b"\n") == len(lines):
            self._store_data(data, commands)
            return
        bad = next(number for number, line in enumerate(lines) if b"\n" in line)
        self._store_lines(lines[:bad], commands)
        raise RemoteProtocolError("A line holds an LF")

    def _store_data(self, data: bytes, commands: list[Command]) -> None:
        fit = data.rfind(b"\n", 0, MAX_OFFSET - self._stored) + 1
        if 0 < fit < len(data):  # the end of all counting: the lines up to it are good
            self._store(fit, data[:fit], commands)
            data = data[fit:]
        self._store(len(data), data, commands)

    def _store(self, length: int, data: bytes, commands: list[Command]) -> None:
        start, end = self._stored, self._stored + length
        if end > MAX_OFFSET:
            raise RemoteProtocolError("A stream is longer than can be counted")
        self._stored = end
        commands.append(Store(self.stream, start, end, data))

    def _control(self, payload: bytes, commands: list[Command]) -> None:
        match self.state, decode_control(payload):
            case ((State.WAITING | State.OPEN), Hello(stream)):
                self.state = State.RESOLVING
                self.stream = stream
                commands.append(Resolve(stream))
            case State.OPEN, Skip(length):
                self._store(length, b"", commands)
            case State.OPEN, Ping():
                commands.append(self._ack())
            case _, word:
                raise RemoteProtocolError(f"A {type(word).__name__.upper()} does not fit")

    def _ack(self) -> Send:
        self._acked = self._durable
        return Send(encode_ack(self._durable))

    def _end(self, reason: Reason, error: RemoteProtocolError | Unavailable) -> list[Command]:
        self.state = State.ENDED
        return [Send(encode_control(Refuse(reason))), End(error)]
