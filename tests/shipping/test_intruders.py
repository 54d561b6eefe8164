"""Intruders on either side: a worker that was taken over against the listener, a master that was against a worker."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from decnet_core.endpoints import Endpoint
from decnet_core.identity import MASTER_HOST, Identity, Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import client_context, server_context
from decnet_core.shipping.control import (
    ALPN,
    MAX_OFFSET,
    Ack,
    Hello,
    Ping,
    Reason,
    Refuse,
    Resume,
    Skip,
    encode_control,
)
from decnet_core.syslog.framing import encode_frame
from decnet_master.listener.committer import BLOCK_BYTES, FULL_BYTES
from tests.shipping.place import SENDER, Log, Place, batches, enrol
from tests.shipping.receiving import WAIT_SECS, Receiving, reached, receiving
from tests.shipping.test_shipping import STREAM, Peer, shipper_context, shipping

Mad = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ONE_READ_BYTES = 256 << 10
"""What the event loop hands to a connection at once, at most."""


def number(text: bytes) -> bytes:
    """Write a control frame that says it all by itself: nothing of ours would write it."""
    return encode_frame(b"\nSKIP " + text)


async def opened(master: Receiving, context: ssl.SSLContext, offset: int = 0) -> Peer:
    peer = await Peer.dial(master, context)
    peer.send(encode_control(Hello(STREAM)))
    await peer.expect(encode_control(Resume(offset)))
    return peer


def context_of(place: Place, host: str) -> ssl.SSLContext:
    """Enrol another worker of the same site."""
    files = enrol(place.authority, place.folder / host, Identity(Role.LOGSHIP, host)).files
    return client_context(files, files.ca, (ALPN,))


WRONG = [
    number(b"9223372036854775808"),
    number(b"18446744073709551616"),
    number(b"9" * 40),
    number(b"-1"),
    number(b"+1"),
    number(b"01"),
    number(b"0"),
    number(b"1_0"),
    number(b" 1"),
    number(b"1e3"),
    number("\N{ARABIC-INDIC DIGIT THREE}".encode()),
    number("\N{SUPERSCRIPT TWO}".encode("latin-1")),
    number(b"9223372036854775807") * 2,
    encode_control(Hello(STREAM.replace("0", "f"))).replace(b"HELLO f", b"HELLO F"),
    encode_frame(b"\nHELLO ../../etc/passwd"),
    encode_control(Resume(0)),
    encode_control(Ack(0)),
    b"1048577 ",
    b"9999999 x",
    b"99999999999999999999 x",
    "\N{ARABIC-INDIC DIGIT THREE} abc".encode(),
]


async def test_a_peer_that_plays_with_numbers_and_names_is_refused(place: Place) -> None:
    async with receiving(place) as master:
        for wrong in WRONG:
            peer = await opened(master, shipper_context(place), offset=await settled(master))
            peer.send(encode_frame(b"good") + wrong)
            answer = await asyncio.wait_for(peer.reader.read(), WAIT_SECS)
            assert encode_control(Refuse(Reason.PROTOCOL)) in answer, wrong
            peer.writer.transport.abort()
        assert master.server.counts.protocol_errors == len(WRONG)
    lines = [line for batch in batches(place.journal) for line in batch.lines]
    assert lines == [b"good"] * len(WRONG)


async def settled(master: Receiving) -> int:
    """Wait until all that was taken is durable, and tell how much that is."""
    await asyncio.wait_for(master.server.committer.settled((SENDER, STREAM)), WAIT_SECS)
    return master.writer.durable_offset(SENDER, STREAM)


async def test_a_stream_belongs_to_the_certificate_that_names_it(place: Place) -> None:
    async with receiving(place) as master:
        master.books.active.add("w2")
        victim = await opened(master, shipper_context(place))
        victim.send(encode_frame(b"mine"))
        await victim.expect(encode_control(Ack(5)))
        thief = await opened(master, context_of(place, "w2"), offset=0)
        thief.send(encode_frame(b"forged"))
        await thief.expect(encode_control(Ack(7)))
        victim.send(encode_frame(b"still mine"))
        await victim.expect(encode_control(Ack(16)))
        assert master.server.counts.superseded == 0
        for peer in (victim, thief):
            peer.writer.transport.abort()
    assert {(batch.identity, line) for batch in batches(place.journal) for line in batch.lines} == {
        ("logship@w1", b"mine"),
        ("logship@w1", b"still mine"),
        ("logship@w2", b"forged"),
    }


@pytest.mark.slow
async def test_a_flood_of_small_control_frames_takes_no_memory_and_nobody_s_turn(place: Place) -> None:
    async with receiving(place) as master:
        master.books.active.add("w2")
        flooding = await opened(master, shipper_context(place))
        committer, most = master.server.committer, 0
        flood = asyncio.create_task(keep_sending(flooding, encode_control(Skip(1)) * 10_000))
        other = await opened(master, context_of(place, "w2"))
        for turn in range(3):
            other.send(encode_frame(b"%02d" % turn))
            await other.expect(encode_control(Ack(3 * (turn + 1))))
            most = max(most, len(committer._queue))
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
        assert 0 < most <= FULL_BYTES // BLOCK_BYTES + ONE_READ_BYTES // len(encode_control(Skip(1)))
        for peer in (flooding, other):
            peer.writer.transport.abort()
        await reached(lambda: not committer._queue, "the flood's end")


@pytest.mark.slow
async def test_who_never_reads_its_acknowledgements_is_cut(place: Place) -> None:
    async with receiving(place) as master:
        narrow = socket.create_connection(("127.0.0.1", master.port))
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf = Peer(
            *await asyncio.open_connection(sock=narrow, ssl=shipper_context(place), server_hostname=MASTER_HOST)
        )
        deaf.send(encode_control(Hello(STREAM)))
        await deaf.expect(encode_control(Resume(0)))
        deaf.writer.transport.pause_reading()
        flood = asyncio.create_task(keep_sending(deaf, encode_control(Ping()) * 10_000))
        await reached(lambda: not master.server._connections, "the end of the connection", 120)
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
        deaf.writer.transport.abort()


async def keep_sending(peer: Peer, data: bytes) -> None:
    """Send without end, as fast as it is taken."""
    while True:
        peer.send(data)
        await peer.writer.drain()
        await asyncio.sleep(0)  # TLS that is being ended takes everything and pauses nobody


@pytest.mark.parametrize(
    "abuse",
    [
        encode_control(Resume(MAX_OFFSET)),
        encode_control(Resume(1 << 40)),
        encode_control(Resume(0)) + encode_control(Ack(MAX_OFFSET)),
        encode_control(Resume(0)) * 2,
        encode_control(Ack(1)) * 10_000 + encode_control(Ping()),
        encode_control(Hello(STREAM)),
        b"\n" * 300,
        encode_frame(b"\nREFUSE \x1b[2J"),
        encode_frame(b"\nREFUSE new-word"),
        b"257 " + b"x" * 300,
    ],
)
async def test_a_master_gone_mad_costs_a_worker_no_line(place: Place, abuse: bytes) -> None:
    log = Log(place.log_path)
    log.write(b"one", b"two")
    before = place.log_path.read_bytes()
    calls = 0

    async def mad(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        await reader.readexactly(len(encode_control(Hello(STREAM))))
        writer.write(abuse)
        await reader.read()
        writer.transport.abort()

    async with posing(place, mad) as port, shipping(place, port):
        await reached(lambda: calls >= 2, "another try after the abuse")
    assert place.log_path.read_bytes() == before
    async with receiving(place) as master, shipping(place, master.endpoint):
        await reached(
            lambda: [line for one in batches(place.journal) for line in one.lines][-2:] == [b"one", b"two"], "both"
        )


@asynccontextmanager
async def posing(place: Place, mad: Mad) -> AsyncIterator[Endpoint]:
    """Serve as the master, with its own certificate, and say what a master never says."""
    files = KeyStore(place.master_data / "identities").load(Role.MASTER, datetime.now(UTC)).files
    server = await asyncio.start_server(mad, "127.0.0.1", 0, ssl=server_context(files, alpn=(ALPN,)))
    try:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
