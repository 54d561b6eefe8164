"""Append numbered events to a worker's event log, as its collector does; killed and started again at will.

    python -m bench.fire.writer LOG STATE-FOLDER WORKER COUNT LINES-PER-S BEGAN MAX-BYTES

The log is the agent's own `EventLog`: after a kill it says what it holds, and the next number follows. The pace is held
to BEGAN (by the monotonic clock, which all processes share), so that a writer that was down catches up in a burst.

A file `rotate` in STATE-FOLDER asks for a rotation, and is taken away by it; otherwise the log's file rotates by its
size. Ends with 0 when event COUNT - 1 is in the log and synced.
"""

from __future__ import annotations

import random
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.fire.numbered import numbered, source_of
from decnet_agent.evidence.event_log import EventLog
from decnet_core import logs
from decnet_core.errors import RetryLater

LARGEST_BATCH = 400
IDLE_SECS = 0.005
ROTATE_FILE = "rotate"


def main() -> None:
    """Write until all events are in the log."""
    path, state, worker = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    count, rate, began, max_bytes = int(sys.argv[4]), float(sys.argv[5]), float(sys.argv[6]), int(sys.argv[7])
    wish = state / ROTATE_FILE
    logs.configure("writer", level="info")

    def opened(most_bytes: int) -> EventLog:
        return EventLog.open(path, state, host=worker, max_bytes=most_bytes, now=lambda: datetime.now(UTC))

    log = opened(max_bytes)
    while (following := int(log.cursor(source_of(worker)) or -1) + 1) < count:
        due = min(count, int((time.monotonic() - began) * rate)) - following
        if due <= 0:
            time.sleep(IDLE_SECS)
            continue
        if wish.exists():  # reopened with a bound that any file exceeds, for one write
            wish.unlink()
            log.close()
            log = opened(1)
            append(log, worker, following, 1)
            log.close()
            log = opened(max_bytes)
            continue
        append(log, worker, following, min(due, random.randint(1, LARGEST_BATCH)))
    log.checkpoint_if_moved()
    log.close()


def append(log: EventLog, worker: str, first: int, count: int) -> None:
    """Append so many events and sync; a full disk is waited for by the next turn."""
    try:
        log.append([numbered(worker, number) for number in range(first, first + count)])
        log.sync()
    except RetryLater:
        time.sleep(IDLE_SECS)


if __name__ == "__main__":
    main()
