"""How a sender behaves towards a master that is away, slow or silent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from decnet_core.endpoints import Endpoint
from decnet_core.identity import Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import server_context
from decnet_core.shipping.control import ALPN, MAX_LINE_BYTES, Reason, Refuse, Resume, encode_control
from decnet_core.syslog.framing import FrameDecoder
from decnet_logship.shipper import FIRST_DELAY_SECS, Backoff
from decnet_logship.tail import BLOCK_BYTES
from tests.shipping.place import Log, Place
from tests.shipping.receiving import WAIT_SECS, reached
from tests.shipping.test_shipping import shipping, state_of

WINDOW_BYTES = 64 << 10


def test_pauses_are_drawn_from_the_whole_of_a_range_that_doubles_to_a_bound() -> None:
    asked: list[float] = []

    def draw(bound: float) -> float:
        asked.append(bound)
        return bound / 2

    backoff = Backoff(1.0, draw)
    pauses = [backoff.failed() for _ in range(5)]
    assert asked == [0.2, 0.4, 0.8, 1.0, 1.0]
    assert pauses == [bound / 2 for bound in asked]
    backoff.progressed()
    assert backoff.failed() == FIRST_DELAY_SECS / 2


def test_a_fleet_that_lost_its_master_at_once_comes_back_spread_over_the_longest_pause() -> None:
    fleet = [Backoff(60.0) for _ in range(1000)]
    for backoff in fleet:
        for _ in range(12):
            backoff.failed()
    pauses = sorted(backoff.failed() for backoff in fleet)
    assert 0 <= pauses[0] < 3
    assert 57 < pauses[-1] <= 60
    busiest = max(sum(at <= pause < at + 1 for pause in pauses) for at in range(60))
    assert busiest < 60, "a second never sees more than a few times its share of 17"


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def a_master(place: Place, script: Script) -> AsyncIterator[Endpoint]:
    """A hand-driven listener: the script has each connection after its HELLO."""
    files = KeyStore(place.master_data / "identities").load(Role.MASTER, datetime.now(UTC)).files
    context = server_context(files, alpn=(ALPN,))

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(len("39 \nHELLO ") + 32)
            await script(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=context)
    async with server:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])


async def test_a_master_that_acknowledges_nothing_gets_a_window_and_is_given_up(place: Place) -> None:
    log = Log(place.log_path)
    log.write(*[b"%0999d" % number for number in range(9_000)])
    received: list[int] = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode_control(Resume(0)))
        decoder, count = FrameDecoder(MAX_LINE_BYTES), 0
        while data := await reader.read(1 << 16):
            count += sum(len(line) + 1 for line in decoder.feed(data))
        received.append(count)

    more = {"window_bytes": WINDOW_BYTES, "ack_timeout_secs": 0.2}
    async with a_master(place, swallow) as endpoint, shipping(place, endpoint, **more):
        await reached(lambda: "acknowledged nothing" in state_of(place).last_error, "the reason")
        await reached(lambda: len(received) >= 2, "giving up, twice")
    assert all(WINDOW_BYTES <= count <= WINDOW_BYTES + BLOCK_BYTES for count in received)
    assert state_of(place).shipped_bytes == 0


async def test_a_refusal_and_its_reason_are_told(place: Place) -> None:
    Log(place.log_path)

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode_control(Refuse(Reason.HOST)))
        async with asyncio.timeout(WAIT_SECS):
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    async with a_master(place, refuse) as endpoint, shipping(place, endpoint):
        await reached(lambda: state_of(place).refused == "host", "the reason")
        assert "not active" in state_of(place).last_error
        assert not state_of(place).connected
