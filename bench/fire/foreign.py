"""Append numbered lines to a log that is not ours, rotated as logrotate does: by rename, or by copy and truncation.

    python -m bench.fire.foreign LOG WORKER COUNT LINES-PER-S BEGAN

A file `LOG`.rename or `LOG`.copytruncate in the folder `wishes` beside it asks for a rotation. Nothing is written
between copy and truncation, so that this way of rotating loses nothing by itself, and this program is never killed, for
it has no memory of what it wrote. Rotated files are kept. Ends with 0 when line COUNT - 1 is in the log and synced.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from pathlib import Path

from bench.fire.numbered import foreign_text

LARGEST_BATCH = 200
IDLE_SECS = 0.005
KINDS = ("rename", "copytruncate")

SMALLEST_BYTES = 1 << 10
"""A log is not rotated while it is shorter."""


def main() -> None:
    """Write until all lines are in the log."""
    path, worker = Path(sys.argv[1]), sys.argv[2]
    count, rate, began = int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])
    file = os.open(path, _HOW, 0o640)
    following = rotations = 0
    while following < count:
        kind = next((kind for kind in KINDS if wish_of(path, kind).exists()), None)
        if kind is not None and os.fstat(file).st_size >= SMALLEST_BYTES:
            wish_of(path, kind).unlink()
            rotations += 1
            file = rotate(path, file, kind, rotations)
        due = min(count, int((time.monotonic() - began) * rate)) - following
        if due <= 0:
            time.sleep(IDLE_SECS)
            continue
        end = following + min(due, random.randint(1, LARGEST_BATCH))
        lines = (foreign_text(worker, number) for number in range(following, end))
        data = "".join(f"{line}\n" for line in lines).encode()
        cut = random.randrange(len(data))  # half a line stands at the end for a moment
        os.write(file, data[:cut])
        os.write(file, data[cut:])
        following = end
    os.fsync(file)


def wish_of(log: Path, kind: str) -> Path:
    """Name the file that asks for a rotation."""
    return log.parent / "wishes" / f"{log.name}.{kind}"


def rotate(path: Path, file: int, kind: str, number: int) -> int:
    """Rotate; returns the descriptor to write on with."""
    aside = path.with_name(f"{path.name}.{number}")
    if kind == "rename":
        path.rename(aside)
        os.close(file)
        return os.open(path, _HOW, 0o640)
    shutil.copy2(path, aside)
    os.ftruncate(file, 0)
    return file


_HOW = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC

if __name__ == "__main__":
    main()
