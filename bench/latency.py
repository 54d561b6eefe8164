"""How soon a line that is appended to a worker's event log can be queried in the master's database.

    python bench/latency.py [--db sqlite|postgres] [--rate N] [--secs N] [--folder F] [--json]

The whole way with the real daemons: the lines of `bench/corpus.py` are appended to one event log at a steady rate,
`decnet-logship serve` ships them over mutual TLS, the listener makes them durable, the ingester stores them with all
that is derived from them. Meanwhile the rows are read as the API's live stream reads them, every `POLL_SECS`; a line
counts as there when a query has returned its row. Start-up is no part of it: the clock runs after a first line arrived.

The last line printed is one JSON object. Exit codes: 0 measured, 69 a part is missing or the lines did not arrive.
Whatever ends this program, the kernel ends its daemons, and a watcher on a pipe removes the folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a program of the checkout: it uses the lab's pieces

from bench import corpus  # noqa: E402
from bench.enrolled import Enrolled, enrol  # noqa: E402
from bench.host import removed_at_the_end  # noqa: E402
from decnet_core import logs  # noqa: E402
from decnet_core.errors import DecnetError, ExitCode, Unavailable  # noqa: E402
from decnet_master.store import Store  # noqa: E402
from tests.lab.postgres import PostgresCluster  # noqa: E402
from tests.lab.processes import Daemon, free_port  # noqa: E402
from tests.shipping.place import Log  # noqa: E402

WORKER = "w1"
TICK_SECS = 0.01  # lines that are due are appended together
POLL_SECS = 0.01  # the error of a figure, at most
PATIENCE_SECS = 60.0  # after the last line
PAGE = 1000


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--db", choices=("sqlite", "postgres"), default="sqlite", help="default: %(default)s")
    parser.add_argument("--rate", type=int, default=2_000, help="lines per second (default: %(default)s)")
    parser.add_argument("--secs", type=int, default=15, help="for so long (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work; default: /tmp")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logs.configure("bench", level="warning")
    folder = Path(tempfile.mkdtemp(prefix="decnet-bench-", dir=arguments.folder))
    with removed_at_the_end(folder), ExitStack() as running:
        try:
            url = None
            if arguments.db == "postgres":
                url = running.enter_context(PostgresCluster(durable=True)).create_database()
            site = asyncio.run(enrol(folder / "site", url, [WORKER]))
            log = Log(site.log_directory(WORKER) / "events.log")
            for daemon in daemons(site):
                running.enter_context(daemon)
            delays = asyncio.run(measured(site, log, arguments.rate, arguments.rate * arguments.secs))
        except DecnetError as error:
            print(f"error: {error.message}\n  {error.advice}", file=sys.stderr)
            return ExitCode.UNAVAILABLE
    delays.sort()
    result: dict[str, Any] = {"db": arguments.db, "lines": len(delays), "lines_per_s": arguments.rate}
    result |= {f"p{share}_ms": round(delays[len(delays) * share // 100] * 1000) for share in (50, 90, 99)}
    result["worst_ms"] = round(delays[-1] * 1000)
    if not arguments.json:
        print(f"half of the lines after {result['p50_ms']} ms, 99 of 100 after {result['p99_ms']} ms")
    print(json.dumps(result))
    return 0


def daemons(site: Enrolled) -> list[Daemon]:
    """Prepare listener, ingester and logship."""
    port = free_port()
    master = site.master_environment() | {"DECNET_LISTENER_ADDRESS": f"127.0.0.1:{port}"}
    worker = site.worker_environment(WORKER) | {"DECNET_MASTER": f"127.0.0.1:{port}"}
    parts = (
        ("listener", ["decnet_master", "listener"], master),
        ("ingester", ["decnet_master", "ingester"], master),
        ("logship", ["decnet_logship", "serve"], worker),
    )
    return [
        Daemon([sys.executable, "-m", *argv], log_path=site.folder / f"{name}.out", env=env)
        for name, argv, env in parts
    ]


async def measured(site: Enrolled, log: Log, rate: int, count: int) -> list[float]:
    """Append lines at the rate and tell of each how long it took, in seconds."""
    lines = [line for _, line in corpus.realistic(count)]
    appended: list[float] = []
    seen: list[float] = []
    async with await Store.open(site.database_url, connections=1) as store:
        seq = await _first(store)  # the log's own header
        reading = asyncio.create_task(_read(store, seq, count, seen))
        began = time.monotonic()
        while len(appended) < count:
            await asyncio.sleep(TICK_SECS)
            due = min(int((time.monotonic() - began) * rate), count)
            log.write(*lines[len(appended) : due])
            appended += [time.monotonic()] * (due - len(appended))
        try:
            async with asyncio.timeout(PATIENCE_SECS):
                await reading
        except TimeoutError:
            raise Unavailable(
                f"{len(seen)} of {count} lines arrived within {PATIENCE_SECS:.0f} s", "Look at the daemons' logs."
            ) from None
    return [there - put for there, put in zip(seen, appended, strict=True)]  # one stream: rows come in its order


async def _first(store: Store) -> int:
    try:
        async with asyncio.timeout(PATIENCE_SECS):
            while True:
                if seq := await store.events.latest_seq():
                    return seq
                await asyncio.sleep(POLL_SECS)
    except TimeoutError:
        raise Unavailable("The first line did not arrive", "Look at the daemons' logs.") from None


async def _read(store: Store, seq: int, count: int, seen: list[float]) -> None:
    while len(seen) < count:
        if rows := await store.events.page(after_seq=seq, limit=PAGE):
            seq = rows[-1]["seq"]
            seen += [time.monotonic()] * len(rows)
        else:
            await asyncio.sleep(POLL_SECS)


if __name__ == "__main__":
    sys.exit(main())
