"""Are logs shipped exactly once while everything fails? Kill, cut, fill and rotate, then count in the database.

    python bench/faults.py [--kills N] [--lines N] [--db sqlite|postgres] [--workers N] [--seed N] [--json]

Numbered lines go through the real daemons with real identities, from the agent's event log and another program's log
over mutual TLS and the journal into the database, while a seeded sequence of faults strikes (`bench/fire/strikes.py`
says which and how). Then the fire stops, what is left drains, the daemons are stopped in order, and the database is
read in its own order: every line must be there once, after the one before it in its log, as it was written.

The same seed deals the same faults at the same times; what they meet is up to the machine. A full disk takes root (a
mount in a namespace of our own) and is left out without it, with a word on standard error.

The last line printed is one JSON object; `bench/README.md` has its keys. Exit codes: 0 exactly once; 1 something was
lost, duplicated, reordered, altered, invented or miscounted, or a daemon ended by itself; 69 a part is missing.
Whatever ends this program, the kernel ends its daemons, and a watcher on a pipe removes the folder. `--keep` leaves it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a program of the checkout: it uses the lab's pieces

from bench.enrolled import enrol  # noqa: E402
from bench.fire.link import Link  # noqa: E402
from bench.fire.site import Site, small_disk  # noqa: E402
from bench.fire.strikes import PROCESSES, Fire, deal  # noqa: E402
from bench.fire.tally import OURS, THEIRS, Tally, tally  # noqa: E402
from bench.host import removed_at_the_end  # noqa: E402
from decnet_core import logs  # noqa: E402
from decnet_core.errors import DecnetError, ExitCode  # noqa: E402
from tests.lab.postgres import PostgresCluster  # noqa: E402
from tests.lab.processes import free_port  # noqa: E402

PATIENCE_SECS = 60.0
"""Without any progress after the fire: then what is missing is lost. The longest pause of any daemon is
half of it: a sender waits 30 s for an answer to its HELLO."""

LOOK_SECS = 0.5
FAULTS = ("cut", "freeze", "swallow", "rotate", "rename", "copytruncate", "pause")
FOREIGN_PART = 1 / 5
"""Of the lines; they stand in a log that another program writes."""


def main() -> int:
    """Burn, count and print."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logs.configure("bench", level="warning")
    folder = Path(tempfile.mkdtemp(prefix="decnet-fire-", dir=options.folder))
    if not options.keep:
        removed_at_the_end(folder)
    with contextlib.ExitStack() as stack:
        try:
            result = run(options, folder, stack)
        except DecnetError as error:
            print(f"error: {error.message}\n  {error.advice}", file=sys.stderr)
            return ExitCode.UNAVAILABLE
    print(json.dumps(result))
    return 0 if is_exactly_once(result) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs; other faults come on top (default: 200)")
    parser.add_argument("--lines", type=int, default=1_000_000, help="in all (default: a million)")
    parser.add_argument("--db", choices=("sqlite", "postgres"), default="sqlite", help="default: sqlite")
    parser.add_argument("--workers", type=int, default=2, help="that share the lines (default: 2)")
    parser.add_argument("--seed", type=int, default=None, help="of the faults; default: another one each time")
    parser.add_argument("--gap-secs", type=float, default=1.2, help="between two strikes, on average (default: 1.2)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work")
    parser.add_argument("--keep", action="store_true", help="leave the folder, to look into what happened")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    options = parser.parse_args()
    if options.kills < 1 or options.workers < 1 or options.lines < options.workers or options.gap_secs <= 0:
        parser.error("numbers are at least 1, and each worker has a line")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    return options


def run(options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Make the site, burn it, let it drain, count.

    Raises:
        DecnetError: a part of the bench is missing, or a daemon does not come up.
    """

    def say(text: str) -> None:
        if not options.json:
            print(f"==> {text}", file=sys.stderr, flush=True)

    disk = stack.enter_context(small_disk(folder / "master" / "journal"))
    if disk is None:
        print("no full disk: that takes root", file=sys.stderr)
    cluster = stack.enter_context(PostgresCluster(durable=True)) if options.db == "postgres" else None
    names = [f"w{number + 1}" for number in range(options.workers)]
    enrolled = asyncio.run(enrol(folder, cluster.create_database() if cluster else None, names))
    draw = random.Random(options.seed)
    victims = (*PROCESSES, "database") if cluster else PROCESSES
    plan = deal(draw, options.kills, victims, (*FAULTS, "disk") if disk else FAULTS, options.gap_secs)
    each = options.lines // options.workers
    lines = {THEIRS: int(each * FOREIGN_PART), OURS: each - int(each * FOREIGN_PART)}
    say(f"seed {options.seed}: {len(plan.kinds)} strikes in {plan.secs:.0f} s over {each * options.workers} lines")

    port = free_port()
    link = stack.enter_context(Link(port))
    site = Site(enrolled, link, port, lines=lines, secs=plan.secs, disk=disk, cluster=cluster)
    stack.callback(site.stop)
    began = time.monotonic()
    site.start()
    fire = Fire(site, plan, draw)
    fire.burn(lambda kind: say(f"{time.monotonic() - began:6.1f} s  {kind}"))
    burnt = time.monotonic()
    say("the fire is out; draining")
    _drain(site)
    drained = time.monotonic()
    site.stop()
    found = asyncio.run(tally(enrolled.database_url, {(name, log): lines[log] for name in names for log in lines}))
    remarks = site.remarks()
    for sentence in (*found.examples, *site.crashes):
        print(sentence, file=sys.stderr)
    return {
        **_counts(found),
        "kills": fire.struck.killed.total(),
        "lines": each * options.workers,
        "crashes": len(site.crashes),
        "db": options.db,
        "seed": options.seed,
        "workers": options.workers,
        "killed": dict(sorted(fire.struck.killed.items())),
        "others": dict(sorted(fire.struck.others.items())),
        "fire_secs": round(burnt - began, 1),
        "drain_secs": round(drained - burnt, 1),
        "remarks": remarks,
    }


def is_exactly_once(result: dict[str, Any]) -> bool:
    """Tell whether a result is what is promised."""
    return not any(result[key] for key in (*_FAULTS, "crashes"))


_FAULTS = ("lost", "duplicated", "reordered", "altered", "foreign", "dead_letters", "miscounted")


def _counts(found: Tally) -> dict[str, int]:
    return {name: getattr(found, name) for name in _FAULTS}


def _drain(site: Site) -> None:
    """Wait until nothing is left anywhere, or nothing has moved for so long that nothing will."""
    before, moved_at = None, time.monotonic()
    while True:
        site.watch()
        now = left, journaled, stored = site.progress()
        if left == 0 and stored == journaled:
            return
        if now != before:
            before, moved_at = now, time.monotonic()
        elif time.monotonic() - moved_at > PATIENCE_SECS:
            break
        time.sleep(LOOK_SECS)
    print(f"nothing moves: {left} bytes not acknowledged, journal {journaled}, stored {stored}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
