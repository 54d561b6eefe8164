"""The ingester's steps, one after the other, and the processor time that each takes for an event.

For `ingest.py --profile`. A step is called as the ingester calls it, with transactions of its largest size, and by
itself: so no two of them share a core here, or wait for the interpreter.

| step | what |
|---|---|
| `read` | the journal's segments, checked, cut into batches and lines |
| `sort` | lines to rows, and their counting |
| `fold` | the counts to the rows of the derived tables |
| `insert_events` | transactions with the rows and the position alone |
| `merge_sums` | what the derived tables add to those |
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from decnet_master.ingester.app import CACHE_KIB, COLLECT_AFTER, CONNECTIONS
from decnet_master.ingester.ingest import GROWTH
from decnet_master.ingester.lines import Sorted
from decnet_master.journal.reader import START, Batch, JournalReader, Position
from decnet_master.settings import MasterSettings
from decnet_master.store import Load, Store

READ_BYTES = 1 << 20
LARGEST_ROWS = GROWTH * MasterSettings.model_fields["batch_size"].default  # of one transaction


def profile(
    journal: Path, new_url: Callable[[], str], server_cpu_secs: Callable[[], float]
) -> dict[str, dict[str, float]]:
    """Measure each step; microseconds for an event, of this process and of the database's server."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)  # as the daemon does
    parts = list(parts_of(journal))
    count = sum(len(part.load.records) for part in parts)
    read = _cpu_secs_of(lambda: list(_batches(journal)))
    python = {
        "read": read,
        "sort": _cpu_secs_of(lambda: list(parts_of(journal))) - read,
        "fold": _cpu_secs_of(lambda: [part.load.tally.fold() for part in parts]),
    }
    figures = {step: {"ours_us": _micros(secs, count)} for step, secs in python.items()}
    stored: list[tuple[float, float]] = []
    for loads in ([Load(part.load.records) for part in parts], [part.load for part in parts]):
        url = new_url()
        server_before = server_cpu_secs()
        ours = asyncio.run(_stored(url, loads))
        stored.append((ours, server_cpu_secs() - server_before))
    (rows_ours, rows_server), (ours, server) = stored
    for step, both in {"insert_events": stored[0], "merge_sums": (ours - rows_ours, server - rows_server)}.items():
        figures[step] = {"ours_us": _micros(both[0], count), "server_us": _micros(both[1], count)}
    return figures


def parts_of(journal: Path) -> Iterator[Sorted]:
    """Read a journal and sort it into transactions of the ingester's largest size."""
    part = Sorted()
    for batches in _batches(journal):
        for batch in batches:
            part.add(batch)
            if len(part.load.records) >= LARGEST_ROWS:
                yield part
                part = Sorted()
    if part.load.records:
        yield part


def _batches(journal: Path) -> Iterator[list[Batch]]:
    position, reader = START, JournalReader(journal)
    while batches := reader.read(position, READ_BYTES):
        yield batches
        position = batches[-1].next


def _micros(secs: float, count: int) -> float:
    return round(secs / count * 1e6, 1)


def _cpu_secs_of(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


async def _stored(url: str, loads: list[Load]) -> float:
    """Store loads, each in a transaction; processor time of ours, which an embedded engine's is part of."""
    async with await Store.open(url, CONNECTIONS, cache_kib=CACHE_KIB) as store:
        position = await store.ingest.position()
        began = time.process_time()
        for number, load in enumerate(loads, 1):
            following = Position(1, number)
            await store.ingest.append(load, [], following, position)
            position = following
        return time.process_time() - began
