"""Put the ingester together: lock, journal, database, loop."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from decnet_core.daemon import Ready, run
from decnet_core.errors import ConfigError, Conflict, RetryLater, Unavailable
from decnet_master.ingester.derivation import finish
from decnet_master.ingester.ingest import FIRST_DELAY_SECS, LONGEST_DELAY_SECS, Ingester
from decnet_master.ingester.retention import retain
from decnet_master.journal.reader import JournalReader
from decnet_master.settings import MasterSettings
from decnet_master.store import Store

LOCK_FILE = "ingester.lock"

CONNECTIONS = 1
"""Each task does one thing at a time."""

CACHE_KIB = 32_000
"""The pages that the largest transaction changes: SQLite would write and read them several times with fewer."""

SWITCH_SECS = 0.0005
COLLECT_AFTER = 50_000

log = structlog.get_logger()


class App:
    """The ingester as a daemon."""

    def __init__(self, settings: MasterSettings) -> None:
        self._settings = settings
        self._ready = Ready(1)

    async def run(self) -> None:
        """Run until a signal comes.

        Raises:
            ConfigError: the data directory or the schema is missing.
            Conflict: another ingester works on this journal or this database.
            RemoteProtocolError: the journal is damaged.
            Unavailable: the database cannot be used as it is configured.
        """
        with _alone(self._settings.data_directory):
            _tune_interpreter()
            tasks = {"ingest": self._ingest, "derive": self._derive}
            if self._settings.retention_days:
                tasks["retain"] = functools.partial(self._retain, self._settings.retention_days)
            await run(tasks, self._ready)

    async def _ingest(self) -> None:
        async with await _open(self._settings.database) as store:
            ingester = Ingester(
                JournalReader(self._settings.journal_directory),
                store,
                batch_rows=self._settings.batch_size,
                max_wait_secs=self._settings.batch_max_wait_ms / 1000,
            )
            await ingester.run(self._ready.one_more)

    async def _derive(self) -> None:
        async with await _open(self._settings.database) as store:
            await finish(store)

    async def _retain(self, days: int) -> None:
        async with await _open(self._settings.database) as store:
            await retain(store, days)


def build(settings: MasterSettings) -> App:
    """Wire the ingester; nothing is opened yet."""
    return App(settings)


def _tune_interpreter() -> None:
    """Set Python up for a process that does one thing: rows from one thread, statements in another."""
    # A driver's thread that wants the interpreter back waits so long for the one that decodes; the default is 5 ms,
    # as long as a statement takes.
    sys.setswitchinterval(SWITCH_SECS)
    # A row is a tuple and in no circle: looking for some at every 700 new objects finds nothing and costs a fifth.
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


async def _open(url: str) -> Store:
    """Open the database, waiting for one that is away and known to come back."""
    delay_secs = FIRST_DELAY_SECS
    while True:
        try:
            return await Store.open(url, CONNECTIONS, cache_kib=CACHE_KIB)
        except RetryLater as cause:
            log.warning("database.awaited", reason=cause.message, advice=cause.advice, retry_in_secs=delay_secs)
            await asyncio.sleep(delay_secs)
            delay_secs = min(delay_secs * 2, LONGEST_DELAY_SECS)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of this journal's ingester; the kernel lets go of it however the process ends."""
    try:
        lock_fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise ConfigError(f"The data directory {folder} does not exist", "Run `decnet-master init`.") from None
    except OSError as cause:
        raise Unavailable(
            f"Cannot use the data directory {folder}: {cause.strerror}",
            "Run as the user whom it belongs to, or give it to this one.",
        ) from cause
    try:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                "Another ingester works on this journal", "Stop it: one ingester runs for one data directory."
            ) from None
        yield
    finally:
        os.close(lock_fd)
