"""The sender's machine: events in, commands out.

    state      event               next       commands
    IDLE       hello               GREETING   Send(HELLO)
    GREETING   RESUME              SHIPPING   Begin(offset)
    GREETING   ACK                 GREETING   (the answer to a PING sent in the stream before)
    SHIPPING   lines, skip         SHIPPING   Send(frames), Skipped for what a frame cannot hold
    SHIPPING   ACK                 SHIPPING   Acked(offset)
    SHIPPING   hello, all acked    GREETING   Send(HELLO)
    GREETING, SHIPPING   REFUSE    ENDED      End(Refused)
    GREETING, SHIPPING   tick      the same   Send(PING) when it was quiet; ENDED, End when a timeout is over
    any but ENDED        any other bytes      ENDED, End(RemoteProtocolError)
    ENDED      anything            ENDED      (nothing)

Invariants
- 0 <= acked <= sent; an ACK never goes back, nor beyond what was sent.
- `sent` moves only by whole lines, so it always stands behind an LF of the stream.
- Nothing may be forgotten before its Acked: the machine holds no line, the caller reads the file again.
- `room_bytes` bounds what is sent and not acknowledged; the caller sends one block beyond it at most.

Timeouts. RESUME must come within `greeting_secs`. While something is unacknowledged, an ACK that moves must come
within `ack_secs`: writes into a dead connection succeed for megabytes, so only progress counts. While nothing is, a
PING is sent after `quiet_secs`, and some word must come within `ack_secs` of it.

The clock is the caller's: `now` is any monotonic time in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from decnet_core.errors import LocalProtocolError, ProtocolError, RemoteProtocolError, Unavailable
from decnet_core.shipping.control import (
    MAX_LINE_BYTES,
    Ack,
    Hello,
    Ping,
    Reason,
    Refuse,
    Resume,
    Skip,
    decode_control,
    encode_control,
)
from decnet_core.syslog.framing import FrameDecoder, encode_frames

_MAX_ANSWER_BYTES = 256
"""A receiver sends control frames only; the longest of version 1 is under 64 bytes."""


class State(Enum):
    """Where a connection stands."""

    IDLE = auto()
    GREETING = auto()
    SHIPPING = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes to the connection."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Begin:
    """Read the stream from this offset and hand its lines in."""

    offset: int


@dataclass(frozen=True, slots=True)
class Acked:
    """Everything before this offset is safe at the receiver."""

    offset: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A line could not be sent and was declared as a hole: `length` bytes with its LF, from `offset`."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class End:
    """Close the connection."""

    error: ProtocolError | Unavailable


Command = Send | Begin | Acked | Skipped | End


_ENROL = "Enrol this worker again: `decnet-master swarm enroll` there, `decnet-agent join` here."
_REFUSALS: dict[str, tuple[str, str]] = {
    Reason.ROLE: ("its certificate is not a log shipper's", _ENROL),
    Reason.HOST: ("this host is not active in its books", _ENROL),
    Reason.SUPERSEDED: ("a newer connection ships this stream", "Run one decnet-logship on this worker, not two."),
    Reason.BUSY: (
        "it is busy, or its database does not answer",
        "`decnet-master status` there says what.",
    ),
    Reason.FULL: (
        "its journal or disk is full",
        "`decnet-master journal status` there says what; this log waits here, and goes on by itself.",
    ),
    Reason.PROTOCOL: ("it did not understand what was sent", "Install the same release on the master and here."),
}


class Refused(Unavailable):
    """The receiver refused; `reason` is a `decnet_core.shipping.control.Reason` or a newer one's word."""

    def __init__(self, reason: str) -> None:
        words, advice = _REFUSALS.get(reason, (reason, "The listener's log on the master says more."))
        super().__init__(f"The master refuses this worker's log: {words}", advice)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """Times and sizes of a sender; the module's text says what they bound."""

    greeting_secs: float = 30.0
    ack_secs: float = 60.0
    quiet_secs: float = 20.0
    window_bytes: int = 4 << 20


class Sender:
    """One connection's sending side."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._decoder = FrameDecoder(_MAX_ANSWER_BYTES)
        self.state = State.IDLE
        self.acked = 0
        self.sent = 0
        self._heard_at = 0.0  # the last word of any kind
        self._progress_at = 0.0  # the last ACK that moved, or when something became unacknowledged
        self._pinged_at: float | None = None  # of the PING that was not answered yet

    @property
    def room_bytes(self) -> int:
        """How many bytes of the stream may be sent now."""
        if self.state is not State.SHIPPING:
            return 0
        return max(0, self._limits.window_bytes - (self.sent - self.acked))

    def hello(self, stream: str, now: float) -> list[Command]:
        """Begin a stream, on a new connection or after everything of the one before is acknowledged.

        Raises:
            LocalProtocolError: in any other state, or for a malformed stream.
        """
        finished = self.state is State.SHIPPING and self.acked == self.sent
        if self.state is not State.IDLE and not finished:
            raise LocalProtocolError("HELLO before everything of the stream before is acknowledged")
        frame = encode_control(Hello(stream))
        self.state = State.GREETING
        self._heard_at = self._progress_at = now
        self._pinged_at = None
        return [Send(frame)]

    def lines(self, block: bytes, now: float) -> list[Command]:
        """Send whole lines, each with its LF; they follow what was sent before.

        Raises:
            LocalProtocolError: not shipping, or the block does not end with LF.
        """
        if not block.endswith(b"\n"):
            raise LocalProtocolError("A block to ship ends inside a line")
        self._advance_check(now)
        payloads = block.split(b"\n")
        payloads.pop()
        if all(payloads) and (len(block) <= MAX_LINE_BYTES or len(max(payloads, key=len)) <= MAX_LINE_BYTES):
            self.sent += len(block)
            return [Send(encode_frames(payloads))]
        commands: list[Command] = []
        for payload in payloads:
            if 0 < len(payload) <= MAX_LINE_BYTES:
                commands.append(Send(encode_frames((payload,))))
                self.sent += len(payload) + 1
            else:
                commands += self._hole(len(payload) + 1)
        return commands

    def skip(self, length: int, now: float) -> list[Command]:
        """Declare a hole: one line that is too long to be read whole, `length` bytes with its LF.

        Raises:
            LocalProtocolError: not shipping, or the length is not positive.
        """
        self._advance_check(now)
        return self._hole(length)

    def receive(self, data: bytes, now: float) -> list[Command]:
        """Take bytes from the connection."""
        if self.state is State.ENDED:
            return []
        commands: list[Command] = []
        try:
            for payload in self._decoder.feed(data):
                commands += self._word(payload, now)
                if commands and isinstance(commands[-1], End):  # what follows a REFUSE says nothing more
                    return commands
        except RemoteProtocolError as error:
            return [*commands, *self._end(error)]
        if self._decoder.error is not None:
            commands += self._end(self._decoder.error)
        return commands

    def tick(self, now: float) -> list[Command]:
        """Let time pass: ask for a sign of life, or give the connection up. Call it about once a second."""
        overdue = self._overdue(now)
        if overdue is not None:
            return self._end(Unavailable(overdue))
        if self.state is not State.SHIPPING or self._pinged_at is not None:
            return []
        if now - self._heard_at <= self._limits.quiet_secs:
            return []
        self._pinged_at = now
        return [Send(encode_control(Ping()))]

    def _overdue(self, now: float) -> str | None:
        limits = self._limits
        if self.state is State.GREETING and now - self._progress_at > limits.greeting_secs:
            return "The master did not answer HELLO in time"
        if self.state is State.SHIPPING:
            if self.acked < self.sent and now - self._progress_at > limits.ack_secs:
                return "The master acknowledged nothing for too long"
            if self._pinged_at is not None and now - self._pinged_at > limits.ack_secs:
                return "The master does not answer any more"
        return None

    def _word(self, payload: bytes, now: float) -> list[Command]:
        word = decode_control(payload)
        self._heard_at = now
        self._pinged_at = None
        match self.state, word:
            case State.GREETING, Resume(offset):
                self.state = State.SHIPPING
                self.acked = self.sent = offset
                self._progress_at = now
                return [Begin(offset)]
            case State.GREETING, Ack():
                return []
            case State.SHIPPING, Ack(offset) if self.acked <= offset <= self.sent:
                if offset == self.acked:
                    return []
                self.acked = offset
                self._progress_at = now
                return [Acked(offset)]
            case ((State.GREETING | State.SHIPPING), Refuse(reason)):
                return self._end(Refused(reason))
            case _:
                raise RemoteProtocolError(f"The master sent a {type(word).__name__.upper()} that does not fit")

    def _advance_check(self, now: float) -> None:
        if self.state is not State.SHIPPING:
            raise LocalProtocolError("Lines before RESUME")
        if self.acked == self.sent:
            self._progress_at = now

    def _hole(self, length: int) -> list[Command]:
        frame = encode_control(Skip(length))
        offset = self.sent
        self.sent += length
        return [Send(frame), Skipped(offset, length)]

    def _end(self, error: ProtocolError | Unavailable) -> list[Command]:
        self.state = State.ENDED
        return [End(error)]
