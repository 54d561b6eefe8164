"""One part is stored while the next is read: how large they get, and what the second becomes when the first fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from decnet_core.errors import RetryLater
from decnet_master.ingester.ingest import GROWTH, Ingester
from decnet_master.journal.reader import JournalReader, Position
from decnet_master.journal.writer import JournalWriter
from decnet_master.store import DeadLetter, Load, Store
from decnet_master.store.ingest import Ingest
from tests.ingester.journals import a_line, all_rows, append, ingesting, until, until_read
from tests.store.test_derived import derived_of, rebuilt

BATCH_ROWS = 50
LINES = 1_500

Append = Callable[[], Awaitable[None]]


class Watched(Ingest):
    """The store's own room, with something before or behind each of its transactions."""

    def __init__(self, store: Store, around: Callable[[int, Append], Awaitable[None]] | None = None) -> None:
        super().__init__(store.ingest._database)
        self.sizes: list[int] = []
        self._around = around
        store.ingest = self

    async def append(self, load: Load, letters: Sequence[DeadLetter], position: Position, expected: Position) -> None:
        self.sizes.append(len(load.records))

        async def stored() -> None:
            await super(Watched, self).append(load, letters, position, expected)

        await (self._around(len(self.sizes), stored) if self._around else stored())


def fill(writer: JournalWriter, start: int = 0, end: int = LINES) -> None:
    for at in range(start, end, 10):
        lines = [
            a_line(n, event_type="connection.opened", src_ip=f"192.0.2.{n % 7}", session="s")
            for n in range(at, at + 10)
        ]
        append(writer, lines)


async def check_all(store: Store, url: str) -> None:
    assert [row["cursor"] for row in await all_rows(store)] == [str(n) for n in range(LINES)]
    found = await derived_of(url)
    assert sum(row[4] for row in found["attackers"]) == LINES
    assert await rebuilt(url) == found


async def test_a_transaction_grows_with_what_waits(store: Store, writer: JournalWriter, folder: Path) -> None:
    fill(writer)
    watched = Watched(store)
    async with ingesting(folder, store, batch_rows=BATCH_ROWS):
        await until_read(store, writer)
        grown = watched.sizes[:]
        fill(writer, LINES, LINES + 10)
        await until_read(store, writer)
    assert grown == [50, 100, 200, 400, 400, 350]
    assert max(grown) == GROWTH * BATCH_ROWS
    assert watched.sizes[len(grown) :] == [10]


async def test_what_was_read_behind_a_part_that_failed_is_read_again(
    store: Store, url: str, writer: JournalWriter, folder: Path
) -> None:
    fill(writer)

    async def around(number: int, stored: Append) -> None:
        if number != 2:
            await stored()
        if number in {2, 4}:  # before it was stored, and behind: the ingester must not guess which
            raise RetryLater("The database went away", "Wait.")

    watched = Watched(store, around)
    async with ingesting(folder, store, batch_rows=BATCH_ROWS):
        await until_read(store, writer)
    assert sum(watched.sizes) > LINES  # one was given twice
    await check_all(store, url)


async def test_cancelling_while_one_is_stored_and_the_next_was_read_loses_and_repeats_nothing(
    store: Store, url: str, writer: JournalWriter, folder: Path
) -> None:
    fill(writer)
    begun: list[int] = []

    async def around(number: int, stored: Append) -> None:
        if number == 2:
            begun.append(number)
            await asyncio.Event().wait()  # until it is cancelled
        await stored()

    Watched(store, around)
    ingester = Ingester(JournalReader(folder), store, batch_rows=BATCH_ROWS, max_wait_secs=0.0)
    task = asyncio.create_task(ingester.run())

    async def next_was_read() -> bool:
        return bool(begun) and ingester._parts._at != await store.ingest.position()

    await until(next_was_read)
    task.cancel()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
    Watched(store)
    async with ingesting(folder, store, batch_rows=BATCH_ROWS):
        await until_read(store, writer)
    await check_all(store, url)
