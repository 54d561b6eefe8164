"""How fast a journal becomes rows: events, attackers, sessions, credentials, and the position, in one database.

    python bench/ingest.py [--db sqlite|postgres] [--events N] [--profile] [--folder F] [--json]

The ingester is the real daemon, `decnet-master ingester` with the settings that it comes with; the journal is written
by the listener's own writer; the database is a new SQLite file, or a private PostgreSQL server that syncs its commits.
The events are those of `bench/corpus.py`: the realistic mix, and `credentials_only`, where each event is a password
that was tried. The clock runs from SIGCONT, with the whole journal there, until the position in the database is the
journal's end.

`limit_per_s` is the same rows put into the same table with the same indexes by nothing but the driver (SQLite:
executemany, PostgreSQL: COPY), in transactions of the ingester's largest size, from tuples made beforehand: no line is
read, nothing is derived.

`--profile` tells where the time goes: the ingester's own steps, one after the other in this process, each with the
processor time of ours and of the server's for an event. It is less distorted by neighbours than a speed is.

The last line printed is one JSON object. Exit codes: 0 measured, 69 a part is missing or the ingester did not get
there. Whatever ends this program, the kernel ends its daemons, and a watcher on a pipe removes the folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a program of the checkout: it uses the lab's pieces

import asyncpg  # noqa: E402

from bench import corpus  # noqa: E402
from bench.host import cpu_secs, family_cpu_secs, peak_mib, removed_at_the_end  # noqa: E402
from bench.ingest_steps import LARGEST_ROWS, parts_of, profile  # noqa: E402
from decnet_core import logs  # noqa: E402
from decnet_core.errors import DecnetError, ExitCode, Unavailable  # noqa: E402
from decnet_master.journal.record import Block  # noqa: E402
from decnet_master.journal.writer import JournalWriter  # noqa: E402
from decnet_master.store import Store, migrate  # noqa: E402
from decnet_master.store.records import COLUMNS  # noqa: E402
from tests.lab.postgres import PostgresCluster  # noqa: E402
from tests.lab.processes import Daemon  # noqa: E402

GROUP_LINES = 2_000  # of all workers, in one group commit of the listener's
POLL_SECS = 0.05  # the error of a figure, at most; asking takes a millisecond of the cores that are measured
PATIENCE_SECS = 300.0

Lines = Callable[[int], Iterator[tuple[str, bytes]]]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--db", choices=("sqlite", "postgres"), default="sqlite", help="default: %(default)s")
    parser.add_argument("--events", type=int, default=300_000, help="of each kind (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="tell the processor time of each step as well")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work; default: /tmp")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logs.configure("bench", level="warning")
    folder = Path(tempfile.mkdtemp(prefix="decnet-bench-", dir=arguments.folder))
    with removed_at_the_end(folder), databases(arguments.db, folder) as databases_:
        try:
            result: dict[str, Any] = {"db": arguments.db, "events": arguments.events}
            result |= measured(folder / "realistic", databases_, corpus.realistic, arguments)
            credentials = measured(folder / "credentials", databases_, corpus.credentials_only, arguments)
            result["credentials_only"] = credentials
        except DecnetError as error:
            print(f"error: {error.message}\n  {error.advice}", file=sys.stderr)
            return ExitCode.UNAVAILABLE
    if not arguments.json:
        for name, figures in (("realistic", result), ("credentials only", credentials)):
            print(
                f"{name:17} {figures['events_per_s']:8,} events/s of {figures['limit_per_s']:8,} that the driver takes"
            )
    print(json.dumps(result))
    return 0


@dataclass(frozen=True)
class Databases:
    """Where rows go: what makes a new, migrated database and tells its URL, and the server that has them."""

    new_url: Callable[[], str]
    server_pid: int | None

    def server_cpu_secs(self) -> float:
        """Return the server's processor time so far, of all its processes; an embedded engine has none."""
        return 0.0 if self.server_pid is None else family_cpu_secs(self.server_pid)


@contextmanager
def databases(kind: str, folder: Path) -> Iterator[Databases]:
    """Give new databases of a kind."""
    with PostgresCluster(durable=True) if kind == "postgres" else nullcontext() as cluster:
        made = iter(range(1_000))

        def new_url() -> str:
            url = cluster.create_database() if cluster else f"sqlite:///{folder}/{next(made)}.sqlite3"
            asyncio.run(migrate(url))
            return url

        yield Databases(new_url, cluster.pid if cluster else None)


def measured(folder: Path, databases: Databases, lines: Lines, arguments: argparse.Namespace) -> dict[str, Any]:
    """Ingest one kind of events, then put the same rows in barely."""
    folder.mkdir()
    figures = ingested(folder, databases.new_url(), lines(arguments.events), arguments.events)
    limit = asyncio.run(limit_per_s(databases.new_url(), folder))
    figures |= {"limit_per_s": limit, "ratio": round(figures["events_per_s"] / limit, 2)}
    if arguments.profile:
        figures["profile"] = profile(folder / "journal", databases.new_url, databases.server_cpu_secs)
    return figures


def ingested(folder: Path, url: str, lines: Iterable[tuple[str, bytes]], count: int) -> dict[str, Any]:
    """Run the daemon over a journal."""
    env = {"DECNET_DATA_DIRECTORY": str(folder), "DECNET_DATABASE_URL": url, "DECNET_CONFIG": os.devnull}
    argv = [sys.executable, "-m", "decnet_master", "ingester"]
    with Daemon(argv, log_path=folder / "ingester.out", env=env) as daemon:
        daemon.wait_for_line("ingester.started")
        os.kill(daemon.pid, signal.SIGSTOP)
        end = journal_of(folder / "journal", lines)
        before_secs = cpu_secs(daemon.pid)
        began = time.monotonic()
        os.kill(daemon.pid, signal.SIGCONT)
        secs = asyncio.run(_until_stored(url, end, daemon)) - began
        return {
            "events_per_s": round(count / secs),
            "cpu_secs": round(cpu_secs(daemon.pid) - before_secs, 2),
            "rss_mib": peak_mib(daemon.pid),
        }


async def _until_stored(url: str, end: object, daemon: Daemon) -> float:
    async with asyncio.timeout(PATIENCE_SECS), await Store.open(url, connections=1) as store:
        while await store.ingest.position() != end:
            if daemon.returncode is not None:
                raise Unavailable("The ingester ended", daemon.log_text()[-600:])
            await asyncio.sleep(POLL_SECS)
        return time.monotonic()


def journal_of(folder: Path, lines: Iterable[tuple[str, bytes]]) -> object:
    """Write a journal as the listener does: one block for each worker in each group commit; return its end."""
    writer = JournalWriter.open(folder)
    lines = iter(lines)
    while group := list(islice(lines, GROUP_LINES)):
        by_worker: dict[str, list[bytes]] = {}
        for worker, line in group:
            by_worker.setdefault(worker, []).append(line)
        writer.append([_block(writer, worker, some) for worker, some in by_worker.items()])
    end = writer.end
    writer.close()
    return end


def _block(writer: JournalWriter, worker: str, lines: list[bytes]) -> Block:
    identity, stream = f"logship@{worker}", "0" * 32
    data = b"\n".join(lines) + b"\n"
    start = writer.durable_offset(identity, stream)
    return Block(identity, stream, start, start + len(data), datetime.now(UTC), data)


async def limit_per_s(url: str, folder: Path) -> int:
    """Put the journal's rows into an empty `events` by the driver alone."""
    rows = rows_of(folder / "journal")
    batches = [rows[at : at + LARGEST_ROWS] for at in range(0, len(rows), LARGEST_ROWS)]
    columns = ("seq", *COLUMNS)
    if url.startswith("sqlite"):
        secs = _bare_executemany(url.removeprefix("sqlite:///"), columns, batches)
    else:
        secs = await _bare_copy(url.replace("+asyncpg", ""), columns, batches)
    return round(len(rows) / secs)


def rows_of(journal: Path) -> list[tuple[Any, ...]]:
    """Read the journal's lines as the ingester does."""
    oldest = min(int(path.stem) for path in journal.glob("*.seg"))
    if oldest > 1:
        raise Unavailable("The journal was cleaned already", "Measure fewer events: they must fit into two segments.")
    records = (record for part in parts_of(journal) for record in part.load.records)
    return [(seq, *record) for seq, record in enumerate(records, 1)]


def _bare_executemany(path: str, columns: tuple[str, ...], batches: list[list[tuple[Any, ...]]]) -> float:
    statement = f"INSERT INTO events ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    began = time.monotonic()
    for batch in batches:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(statement, batch)
        connection.execute("COMMIT")
    secs = time.monotonic() - began
    connection.close()
    return secs


async def _bare_copy(url: str, columns: tuple[str, ...], batches: list[list[tuple[Any, ...]]]) -> float:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE events_0 PARTITION OF events FOR VALUES FROM (0) TO (1000000000)")
    began = time.monotonic()
    for batch in batches:
        async with connection.transaction():
            await connection.copy_records_to_table("events", columns=columns, records=batch)
    secs = time.monotonic() - began
    await connection.close()
    return secs


if __name__ == "__main__":
    sys.exit(main())
