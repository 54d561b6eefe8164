"""Blocks to append, made of numbered lines."""

from datetime import UTC, datetime

from decnet_master.journal.reader import START, Batch, JournalReader
from decnet_master.journal.record import Block, Kind

AT = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
SENDER = "logship@w1"


def block(start: int, *lines: bytes, identity: str = SENDER, stream: str = "s1") -> Block:
    data = b"".join(line + b"\n" for line in lines)
    return Block(identity, stream, start, start + len(data), AT, data)


def hole(start: int, end: int, stream: str = "s1") -> Block:
    return Block(SENDER, stream, start, end, AT, b"", Kind.HOLE)


def read_all(reader: JournalReader, max_bytes: int = 1 << 20) -> list[Batch]:
    """Read from the start to the end of what is durable."""
    batches: list[Batch] = []
    position = START
    while found := reader.read(position, max_bytes):
        batches += found
        position = found[-1].next
    return batches


def lines_of(batches: list[Batch], stream: str = "s1") -> list[bytes]:
    return [line for batch in batches if batch.stream == stream for line in batch.lines]
