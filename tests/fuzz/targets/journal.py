"""The journal's records, and the reader over a folder: damage is an error, never another line and never a loop."""

from __future__ import annotations

import atexit
import os
import shutil
import struct
import tempfile
import zlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from decnet_core.errors import RemoteProtocolError
from decnet_core.syslog.framing import encode_frames
from decnet_master.journal.reader import START, JournalReader, Position
from decnet_master.journal.record import (
    HEAD_BYTES,
    Block,
    Kind,
    Record,
    decode_block,
    decode_snapshot,
    encode_block,
    encode_snapshot,
    records,
    wanted_bytes,
)
from decnet_master.journal.segments import DURABLE_FILE, encode_marker, segment_path
from tests.fuzz.target import Target, hold

_AT = datetime(2026, 11, 23, 16, tzinfo=UTC)
_MOST_READS = 10_000


def record(data: bytes) -> None:
    """Records are read whole or refused; the first byte says whether their check sums are put right before."""
    buffer = _put_right(data[1:]) if data[:1] != b"\0" else data[1:]
    try:
        for found in records(memoryview(buffer)):
            hold(found.size_bytes == HEAD_BYTES + len(found.body), "a record is miscounted")
            _inside(found)
    except RemoteProtocolError:
        return


def reader(data: bytes) -> None:
    """A folder with these bytes as its segment gives the same lines in any portion, or is damaged in all of them."""
    folder = _folder()
    segment = _put_right(data[1:])
    segment_path(folder, 1).write_bytes(segment)
    (folder / DURABLE_FILE).write_bytes(encode_marker(Position(1, max(0, len(segment) - (data[0] if data else 0) % 4))))
    whole, portions = _read(folder, 1 << 30), _read(folder, 1)
    if isinstance(whole, list) and isinstance(portions, list):
        hold(whole == portions, "portions hold other lines than the whole")
    else:
        hold(not isinstance(whole, list) and not isinstance(portions, list), "portions see less damage than the whole")


def _inside(found: Record) -> None:
    try:
        if found.kind is Kind.SNAPSHOT:
            more, entries = decode_snapshot(found)
            table = dict(entries)
            written = b"".join(bytes(one.body[1:]) for one in records(memoryview(encode_snapshot(table))))
            hold(more or len(table) < len(entries) or written == bytes(found.body[1:]), "a snapshot is another")
            return
        block = decode_block(found)
        (again,) = records(memoryview(encode_block(block)))
        hold(decode_block(again) == block, "a block comes back as another")
        lines = block.lines()
    except RemoteProtocolError:
        return
    match block.kind:
        case Kind.LINES:
            hold(b"".join(line + b"\n" for line in lines) == block.data, "lines are not the block's")
        case Kind.FRAMES:
            hold(encode_frames(lines) == block.data, "frames of a block were lost without a word")
        case _:
            hold(not lines, "a hole holds lines")


def _put_right(data: bytes) -> bytes:
    """Compute the check sums anew, so that a change in a record reaches what is behind them."""
    buffer = bytearray(data)
    at = 0
    while at + HEAD_BYTES <= len(buffer):
        try:
            size = wanted_bytes(memoryview(buffer)[at:])
        except RemoteProtocolError:
            break
        if at + size > len(buffer):
            struct.pack_into("!I", buffer, at + 8, len(buffer) - at - HEAD_BYTES)
            size = len(buffer) - at
        head, body = bytes(buffer[at : at + 12]), bytes(buffer[at + HEAD_BYTES : at + size])
        struct.pack_into("!I", buffer, at + 12, zlib.crc32(body, zlib.crc32(head)))
        at += size
    return bytes(buffer)


def _read(folder: Path, max_bytes: int) -> list[tuple[int, tuple[bytes, ...]]] | None:
    journal = JournalReader(folder)
    position = START
    lines: list[tuple[int, tuple[bytes, ...]]] = []
    for _ in range(_MOST_READS):
        try:
            batches = journal.read(position, max_bytes)
        except RemoteProtocolError:
            return None
        if not batches:
            return lines
        lines += [(batch.start, batch.lines) for batch in batches]
        hold(batches[-1].next > position, "a reader does not get on")
        position = batches[-1].next
    hold(promise=False, words="a reader never ends")
    return None


@cache
def _folder() -> Path:
    """Make a folder in memory, for this process alone."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="decnet-fuzz-", dir=memory))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


_BLOCKS = encode_block(Block("logship@w1", "s" * 32, 0, 8, _AT, b"one\ntwo\n")) + encode_block(
    Block("logship@w1", "p", 0, 5, _AT, b"3 abc", Kind.FRAMES)
)
_HOLE = encode_block(Block("logship@w1", "s" * 32, 8, 12, _AT, b"", Kind.HOLE))
_SNAPSHOT = encode_snapshot({("logship@w1", "s" * 32): 12, ("logship@w2", "t"): 0})
_SEEDS = (b"\x01" + _BLOCKS + _HOLE, b"\x01" + _SNAPSHOT + _BLOCKS, b"\0" + _HOLE + _SNAPSHOT, b"\x02" + _BLOCKS)
_TOKENS = (b"DJR1\x01\0\0\0", b"DJR1\x02\0\0\0", b"DJR1\x03\0\0\0", b"DJR1\x04\0\0\0", b"\0\0\0\0", _HOLE)

TARGETS = (
    Target("journal-record", record, _SEEDS, _TOKENS, 20),
    Target("journal-reader", reader, _SEEDS, _TOKENS, 2),
)
