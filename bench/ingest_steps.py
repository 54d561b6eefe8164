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
    loads = [part.load for part in parts]
    rows_alone = asyncio.run(_stored(new_url(), [Load(load.records) for load in loads], server_cpu_secs))
    everything = asyncio.run(_stored(new_url(), loads, server_cpu_secs))
    sums_alone = (everything[0] - rows_alone[0], everything[1] - rows_alone[1])
    for step, (ours, server) in {"insert_events": rows_alone, "merge_sums": sums_alone}.items():
        figures[step] = {"ours_us": _micros(ours, count), "server_us": _micros(server, count)}
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


async def _stored(url: str, loads: list[Load], server_cpu_secs: Callable[[], float]) -> tuple[float, float]:
    """Store loads, each in a transaction; processor time of ours (an embedded engine's too) and of the server."""
    async with await Store.open(url, CONNECTIONS, cache_kib=CACHE_KIB) as store:
        position = await store.ingest.position()
        ours, server = time.process_time(), server_cpu_secs()
        for number, load in enumerate(loads, 1):
            following = Position(1, number)
            await store.ingest.append(load, [], following, position)
            position = following
        # While the connection is open: the time of a process that ends meanwhile could be missed.
        return time.process_time() - ours, server_cpu_secs() - server
