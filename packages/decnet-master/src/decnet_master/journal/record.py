"""The records of a segment, as bytes.

    record   = magic "DJR1" · kind u8 · 3 zero bytes · body length u32 · CRC-32 u32 · body        (big-endian)

The CRC (zlib's, RFC 1952 §8) is of the twelve bytes before it and of the body. Kinds:

    1 LINES     head · the bytes [start, end) of the stream as they were sent: lines, each ended by LF
    2 FRAMES    head · octet-counted frames: what a plain RFC 5425 sender sent, whose messages may hold any byte
    3 HOLE      head · nothing: the sender declared that [start, end) is not sent (an empty or an over-long line)
    4 SNAPSHOT  more u8 · entries: end u64, identity length u8, stream length u8, identity, stream
    5 LOST      zeros: what stood here was damaged and set aside (`set_aside`); as long as that was, so nothing moves

    head     = start u64 · end u64 · received_at u64 (µs since 1970 UTC) · identity length u8 · stream length u8 ·
               identity · stream                                                                      (both ASCII)

A snapshot may be split over several records; `more` is 1 in all but the last. This module is sans-IO: any bytes give
records or a RemoteProtocolError.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from decnet_core.errors import LocalProtocolError, RemoteProtocolError
from decnet_core.syslog.framing import LARGEST_FRAME_BYTES, FrameDecoder

MAX_BODY_BYTES = 16 << 20
"""A listener's block is at most its window (1 MiB) and one line (9,999,999 bytes, were it so configured)."""

SNAPSHOT_CHUNK_BYTES = 1 << 20

Key = tuple[str, str]
"""(identity, stream)."""

PLAIN = "plain-"
"""What the stream of a plain RFC 5425 connection begins with. No other can: those are named by 32 hex digits."""

_PREFIX = struct.Struct("!4sB3xI")
_CRC = struct.Struct("!I")
_BLOCK = struct.Struct("!QQQBB")
_ENTRY = struct.Struct("!QBB")
HEAD_BYTES = _PREFIX.size + _CRC.size
MAGIC = b"DJR1"
"""What every record begins with."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_MICROSECONDS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


class Kind(IntEnum):
    """What a record holds."""

    LINES = 1
    FRAMES = 2
    HOLE = 3
    SNAPSHOT = 4
    LOST = 5

    @property
    def is_block(self) -> bool:
        """Whether a record of this kind is a piece of a stream."""
        return self <= Kind.HOLE


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of one stream.

    Attributes:
        identity: who sent it, `role@host`, at most 255 ASCII characters.
        stream: which stream of his, at most 255 ASCII characters.
        start, end: byte positions in the stream.
        received_at: aware UTC.
        data: `end - start` bytes as the kind says; none for a HOLE.
        kind: LINES, FRAMES or HOLE.
    """

    identity: str
    stream: str
    start: int
    end: int
    received_at: datetime
    data: bytes
    kind: Kind = Kind.LINES

    @property
    def key(self) -> Key:
        """Whose offset it moves."""
        return self.identity, self.stream

    def lines(self) -> tuple[bytes, ...]:
        """Cut the data into lines, without their LF.

        Raises:
            RemoteProtocolError: frames of a FRAMES block are broken.
        """
        if self.kind is Kind.LINES:
            return tuple(self.data.split(b"\n")[:-1])
        if self.kind is Kind.FRAMES:
            decoder = FrameDecoder(LARGEST_FRAME_BYTES)
            payloads = tuple(decoder.feed(self.data))
            if decoder.error is not None or decoder.pending_bytes:  # after good frames the decoder itself is quiet
                raise _broken("frame of a block")
            return payloads
        return ()


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it stands in a segment: `size_bytes` with its head."""

    kind: Kind
    body: memoryview
    size_bytes: int


def encode_block(block: Block) -> bytes:
    """Write a block.

    Raises:
        LocalProtocolError: it breaks the rules above.
    """
    return b"".join(block_parts(block))


def block_parts(block: Block) -> tuple[bytes, bytes]:
    """Write a block as its head and its data, so that the data need not be copied.

    Raises:
        LocalProtocolError: it breaks the rules above.
    """
    identity, stream = block.identity.encode("ascii", "replace"), block.stream.encode("ascii", "replace")
    wanted = 0 if block.kind is Kind.HOLE else block.end - block.start
    if (
        not 0 <= block.start < block.end < 1 << 63
        or len(block.data) != wanted
        or not 0 < len(identity) < 256
        or not 0 < len(stream) < 256
        or (block.kind is Kind.LINES and not block.data.endswith(b"\n"))
    ):
        raise LocalProtocolError("A block of the journal does not fit its own offsets")
    at = (block.received_at - _EPOCH) // _MICROSECOND
    head = _BLOCK.pack(block.start, block.end, at, len(identity), len(stream))
    head += identity + stream
    return _record_head(block.kind, head, block.data) + head, block.data


def decode_block(record: Record) -> Block:
    """Read a LINES, FRAMES or HOLE record.

    Raises:
        RemoteProtocolError: its body breaks the layout.
    """
    body = record.body
    try:
        start, end, at, identity_bytes, stream_bytes = _BLOCK.unpack_from(body)
        split = _BLOCK.size + identity_bytes
        identity, stream = str(body[_BLOCK.size : split], "ascii"), str(body[split : split + stream_bytes], "ascii")
    except (struct.error, UnicodeDecodeError):
        raise _broken("head of a block") from None
    data = bytes(body[split + stream_bytes :])
    wanted = 0 if record.kind is Kind.HOLE else end - start
    if not start < end < 1 << 63 or len(data) != wanted or at > _MAX_MICROSECONDS or not identity or not stream:
        raise _broken("block that does not fit its own offsets")
    if record.kind is Kind.LINES and not data.endswith(b"\n"):
        raise _broken("block that ends inside a line")
    return Block(identity, stream, start, end, _EPOCH + at * _MICROSECOND, data, record.kind)


def encode_snapshot(table: Mapping[Key, int]) -> bytes:
    """Write the table as one or more records."""
    chunks: list[bytes] = []
    chunk: list[bytes] = []
    size = 0
    for (identity, stream), end in table.items():
        entry = _ENTRY.pack(end, len(identity), len(stream)) + identity.encode("ascii") + stream.encode("ascii")
        if size + len(entry) > SNAPSHOT_CHUNK_BYTES:
            chunks.append(b"".join(chunk))
            chunk, size = [], 0
        chunk.append(entry)
        size += len(entry)
    chunks.append(b"".join(chunk))
    last = len(chunks) - 1
    return b"".join(
        _encode(Kind.SNAPSHOT, (b"\x01" if number < last else b"\x00") + body) for number, body in enumerate(chunks)
    )


def decode_snapshot(record: Record) -> tuple[bool, list[tuple[Key, int]]]:
    """Read one record of a snapshot.

    Returns:
        whether another one follows, and the entries.

    Raises:
        RemoteProtocolError: its body breaks the layout.
    """
    body = record.body
    if not len(body) or body[0] > 1:
        raise _broken("head of a snapshot")
    entries: list[tuple[Key, int]] = []
    at = 1
    try:
        while at < len(body):
            end, identity_bytes, stream_bytes = _ENTRY.unpack_from(body, at)
            at += _ENTRY.size
            split, after = at + identity_bytes, at + identity_bytes + stream_bytes
            if after > len(body):
                raise _broken("entry of a snapshot")
            entries.append(((str(body[at:split], "ascii"), str(body[split:after], "ascii")), end))
            at = after
    except (struct.error, UnicodeDecodeError):
        raise _broken("entry of a snapshot") from None
    return body[0] == 1, entries


def encode_lost(size_bytes: int) -> bytes:
    """Write a record of exactly so many bytes that says that what stood there is lost.

    Raises:
        LocalProtocolError: no record is so short or so long.
    """
    if size_bytes < HEAD_BYTES:
        raise LocalProtocolError(f"A journal record of {size_bytes} bytes is shorter than its head")
    return _encode(Kind.LOST, bytes(size_bytes - HEAD_BYTES))


def wanted_bytes(buffer: memoryview) -> int:
    """Tell how many bytes the record at the beginning of the buffer has; `HEAD_BYTES` while that cannot be told.

    Raises:
        RemoteProtocolError: no record begins there.
    """
    if len(buffer) < HEAD_BYTES:
        return HEAD_BYTES
    magic, kind, length = _PREFIX.unpack_from(buffer)
    if magic != MAGIC or not Kind.LINES <= kind <= Kind.LOST or length > MAX_BODY_BYTES:
        raise _broken("head of a record")
    return HEAD_BYTES + int(length)


def records(buffer: memoryview) -> Iterator[Record]:
    """Cut whole records off the beginning of the buffer; ends quietly at one that is not complete.

    Raises:
        RemoteProtocolError: a record's head or CRC is wrong.
    """
    at = 0
    while at < len(buffer):
        size = wanted_bytes(buffer[at:])
        if at + size > len(buffer):
            return
        head, body = buffer[at : at + _PREFIX.size], buffer[at + HEAD_BYTES : at + size]
        (crc,) = _CRC.unpack_from(buffer, at + _PREFIX.size)
        if zlib.crc32(body, zlib.crc32(head)) != crc:
            raise _broken("check sum of a record")
        yield Record(Kind(head[4]), body, size)
        at += size


def _encode(kind: Kind, body: bytes) -> bytes:
    return _record_head(kind, body) + body


def _record_head(kind: Kind, *parts: bytes) -> bytes:
    length = sum(map(len, parts))
    if length > MAX_BODY_BYTES:
        raise LocalProtocolError(f"A journal record of {length} bytes is above {MAX_BODY_BYTES}")
    prefix = _PREFIX.pack(MAGIC, kind, length)
    crc = zlib.crc32(prefix)
    for part in parts:
        crc = zlib.crc32(part, crc)
    return prefix + _CRC.pack(crc)


def _broken(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"The journal holds a broken {what}")
