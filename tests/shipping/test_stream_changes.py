"""A sender that begins a stream while the lines of the one before still wait for the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from decnet_core.identity import Identity, Role
from decnet_core.peer import Peer as PeerName
from decnet_core.shipping.control import Ack, Hello, Resume, encode_control
from decnet_core.syslog.framing import encode_frame
from decnet_master.journal.writer import JournalWriter
from decnet_master.listener import books
from decnet_master.listener.committer import Committer
from decnet_master.listener.connection import Connection
from decnet_master.listener.ledger import Ledger
from decnet_master.listener.roll import Roll
from tests.journal.blocks import block
from tests.shipping.place import SENDER, WORKER, Place, streams
from tests.shipping.receiving import Books, reached, receiving
from tests.shipping.test_shipping import Peer, shipper_context

A, B = "a" * 32, "b" * 32
ROUNDS = 40
TURNS = 50
"""Of the loop; a question to the roll takes three."""


class Wire(asyncio.Transport):
    """Remembers what a connection sends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.aborted = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.aborted = True

    def abort(self) -> None:
        self.aborted = True


@contextmanager
def connected(folder: Path) -> Iterator[tuple[Committer, Connection, Wire]]:
    """A connection before a committer that commits nothing until its `run` is started."""
    writer = JournalWriter.open(folder)
    committer, wire = Committer(writer), Wire()
    shared = books.Books(committer, Roll(Books().of), Ledger(), 60.0)
    connection = Connection(shared, wire, PeerName(Identity(Role.LOGSHIP, WORKER), "f" * 64, "192.0.2.1"), None)
    try:
        yield committer, connection, wire
    finally:
        connection.lost()
        writer.close()


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def test_a_stream_begins_when_all_of_the_one_before_is_decided(tmp_path: Path) -> None:
    with connected(tmp_path) as (committer, connection, wire):
        connection.data_received(encode_control(Hello(A)))
        await reached(lambda: wire.sent == [encode_control(Resume(0))], "the first stream")
        wire.sent.clear()
        connection.data_received(encode_frame(b"of a") + encode_control(Hello(B)))
        await turns()
        assert wire.sent == []
        committing = asyncio.create_task(committer.run())
        try:
            await reached(lambda: len(wire.sent) == 2, "the second stream")
            connection.data_received(encode_frame(b"longer, of b"))
            await reached(lambda: len(wire.sent) == 3, "its line")
            assert not committing.done()
        finally:
            committing.cancel()
            await asyncio.gather(committing, return_exceptions=True)
    assert wire.sent == [encode_control(Ack(5)), encode_control(Resume(0)), encode_control(Ack(13))]
    assert not wire.aborted


async def test_a_block_of_another_stream_acknowledges_nothing(tmp_path: Path) -> None:
    with connected(tmp_path) as (_, connection, wire):
        connection.data_received(encode_control(Hello(B)))
        await reached(lambda: wire.sent == [encode_control(Resume(0))], "the stream")
        connection.data_received(encode_frame(b"this waits for the disk"))
        connection._committed(block(0, b"a", identity=SENDER, stream=A))
        connection._committed(block(0, b"x" * 99, identity=SENDER, stream=A))
        assert wire.sent == [encode_control(Resume(0))]


async def test_the_listener_outlives_a_sender_that_does_not_wait(place: Place) -> None:
    names = [f"{number:032x}" for number in range(ROUNDS + 1)]
    async with receiving(place) as master:
        peer = await Peer.dial(master, shipper_context(place))
        peer.send(encode_control(Hello(names[0])))
        await peer.expect(encode_control(Resume(0)))
        for number, following in enumerate(names[1:]):
            peer.send(encode_frame(b"%04d" % number) + encode_control(Hello(following)))
            await peer.expect(encode_control(Ack(5)) + encode_control(Resume(0)))
        # One that does not even wait for RESUME breaks the protocol: its connection ends, nobody else's.
        peer.send(encode_frame(b"last") + encode_control(Hello(A)) + encode_frame(b"too early"))
        await peer.ended()
        other = await Peer.dial(master, shipper_context(place))
        other.send(encode_control(Hello(names[-1])))
        await other.expect(encode_control(Resume(5)))
        other.writer.transport.abort()
    expected = {name: [b"%04d" % number] for number, name in enumerate(names[:-1])}
    assert streams(place.journal) == expected | {names[-1]: [b"last"]}
