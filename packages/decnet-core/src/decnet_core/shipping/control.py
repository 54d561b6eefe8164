"""Control frames: what sender and receiver say to each other between the lines.

A frame (`decnet_core.syslog.framing`) whose payload begins with LF is a control frame: no line of a log holds an LF,
so none can be taken for one. After the LF stands a word, for most a space and one argument, all ASCII:

    sender     HELLO <stream>   PING   SKIP <bytes>
    receiver   RESUME <offset>   ACK <offset>   REFUSE <reason>

A stream is 32 lower-case hex digits. Numbers are decimal without leading zeros, below 2^63. This codec is total:
any payload is a control frame, or a RemoteProtocolError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from enum import StrEnum

from decnet_core.errors import LocalProtocolError, RemoteProtocolError
from decnet_core.syslog.framing import encode_frame

ALPN = "decnet-log/1"

MAX_LINE_BYTES = 1 << 20
"""The longest line, without its LF, that goes over the wire; part of the protocol, so that no two configurations can
disagree over one line for ever. The longest event of ours is a command line of 128 KiB, at most tripled by encoding."""

MAX_OFFSET = (1 << 63) - 1

_STREAM = re.compile(r"[0-9a-f]{32}")
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,18}")
_MAX_CONTROL_BYTES = 64  # the longest is a HELLO: 39


class Reason(StrEnum):
    """Why a receiver refuses, and whether the sender may hope."""

    ROLE = "role"
    """The certificate's role does not ship logs: hopeless until it is enrolled anew."""
    HOST = "host"
    """The host is not active in the master's books: hopeless until an operator changes that."""
    SUPERSEDED = "superseded"
    """A newer connection ships this stream."""
    BUSY = "busy"
    """Too many connections, or the receiver's database does not answer: try later."""
    FULL = "full"
    """The receiver's journal or disk is full: try later; it goes on by itself once there is room."""
    PROTOCOL = "protocol"
    """The sender broke this specification."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Name the stream that the following frames belong to, and ask where to resume it."""

    stream: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask for an Ack of what is durable now, as a sign of life."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Declare that so many bytes of the stream are not sent: an empty or an over-long line, with its LF."""

    length: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Answer to Hello: everything before this offset is durable, send from there."""

    offset: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Everything before this offset is durable."""

    offset: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The receiver closes the connection; the reason is a `Reason`, or a newer receiver's word."""

    reason: str


Control = Hello | Ping | Skip | Resume | Ack | Refuse

_REASON = re.compile(rb"[a-z][a-z-]{0,31}")


def is_stream(text: str) -> bool:
    """Tell whether the text names a stream."""
    return _STREAM.fullmatch(text) is not None


def is_control(payload: bytes) -> bool:
    """Tell whether a frame's payload is a control frame and not a line."""
    return payload.startswith(b"\n")


def encode_control(control: Control) -> bytes:
    """Write a control frame, framing included.

    Raises:
        LocalProtocolError: the argument is not what the specification allows.
    """
    word = type(control).__name__.upper()
    arguments = [str(getattr(control, field.name)) for field in fields(control)]
    text = " ".join((word, *arguments))
    payload = b"\n" + text.encode("ascii", "replace")
    try:
        decode_control(payload)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"A control frame of ours is malformed: {text[:60]!r}") from error
    return encode_frame(payload)


def encode_ack(offset: int) -> bytes:
    """Write an ACK, framing included: what `encode_control` makes of it, at a sixteenth of the cost.

    A receiver of many quiet senders writes one for nearly every line.

    Raises:
        LocalProtocolError: the offset is out of range.
    """
    if not 0 <= offset <= MAX_OFFSET:
        raise LocalProtocolError(f"An offset of ours is out of range: {offset}")
    payload = b"\nACK %d" % offset
    return b"%d %b" % (len(payload), payload)


def decode_control(payload: bytes) -> Control:
    """Read a control frame's payload.

    Raises:
        RemoteProtocolError: it is none.
    """
    if not is_control(payload) or len(payload) > _MAX_CONTROL_BYTES:
        raise RemoteProtocolError("A frame is not a control frame")
    word, space, argument = payload[1:].partition(b" ")
    if word == b"PING" and not space:
        return Ping()
    if word == b"HELLO" and is_stream(stream := argument.decode("latin-1")):
        return Hello(stream)
    if word == b"REFUSE" and _REASON.fullmatch(argument):
        return Refuse(argument.decode("ascii"))
    if word in _NUMBERED and _NUMBER.fullmatch(argument) and (number := int(argument)) <= MAX_OFFSET:
        if word == b"SKIP" and number == 0:
            raise RemoteProtocolError("A control frame skips nothing")
        return _NUMBERED[word](number)
    raise RemoteProtocolError("A control frame is malformed")


_NUMBERED: dict[bytes, type[Skip | Resume | Ack]] = {b"SKIP": Skip, b"RESUME": Resume, b"ACK": Ack}
