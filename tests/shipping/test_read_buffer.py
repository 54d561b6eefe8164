"""Read buffers grow with the load, shrink without it, and are bounded together."""

from __future__ import annotations

import asyncio

from decnet_master.listener.read_buffer import BUDGET_BYTES, LEAST_BYTES, MOST_BYTES, Budget, ReadBuffer
from tests.shipping.place import Log, Place, streams
from tests.shipping.receiving import reached, receiving
from tests.shipping.test_shipping import shipping


def busy(budget: Budget) -> ReadBuffer:
    """One whose reads fill it."""
    buffer = ReadBuffer(asyncio.BaseTransport(), budget)
    for _ in range(5):
        buffer.took(buffer.bytes)
    return buffer


def test_it_grows_when_reads_fill_it_and_shrinks_when_they_do_not() -> None:
    budget = Budget()
    buffer = ReadBuffer(asyncio.BaseTransport(), budget)
    buffer.took(100)
    buffer.tick()
    assert buffer.bytes == LEAST_BYTES
    buffer = busy(budget)
    assert (buffer.bytes, budget.left_bytes) == (MOST_BYTES, BUDGET_BYTES - MOST_BYTES + LEAST_BYTES)
    buffer.tick()
    assert buffer.bytes == MOST_BYTES, "it was busy in that second"
    buffer.took(MOST_BYTES // 2)
    buffer.tick()
    assert buffer.bytes == MOST_BYTES
    buffer.took(100)
    buffer.tick()
    assert (buffer.bytes, budget.left_bytes) == (LEAST_BYTES, BUDGET_BYTES)


def test_all_together_are_bounded_and_what_a_lost_one_had_is_given_back() -> None:
    budget = Budget()
    buffers = [busy(budget) for _ in range(1000)]
    assert sum(buffer.bytes - LEAST_BYTES for buffer in buffers) == BUDGET_BYTES - budget.left_bytes
    assert 0 <= budget.left_bytes < MOST_BYTES
    for buffer in buffers:
        buffer.lost()
    assert budget.left_bytes == BUDGET_BYTES


async def test_a_connection_under_load_gets_the_most(place: Place) -> None:
    """Also holds asyncio to what `resize_read_buffer` knows of it."""
    log = Log(place.log_path)
    log.write(*[b"%0999d" % number for number in range(5_000)])
    async with receiving(place) as master, shipping(place, master.endpoint):
        (connection,) = [await first_of(master.server._connections)]
        protocol = connection._transport._ssl_protocol
        sizes = set()

        def all_there() -> bool:
            sizes.add(len(protocol.get_buffer(-1)))
            return connection._buffer.bytes == MOST_BYTES

        await reached(all_there, "the most")
        assert len(protocol.get_buffer(-1)) == MOST_BYTES
        await reached(lambda: streams(place.journal) == log.written, "all lines")
        for _ in range(2):
            connection.tick(asyncio.get_running_loop().time())
        assert len(protocol.get_buffer(-1)) == LEAST_BYTES


async def first_of(connections):
    await reached(lambda: len(connections) == 1, "a connection")
    return next(iter(connections))
