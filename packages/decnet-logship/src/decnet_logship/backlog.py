"""How much of the log the master does not have yet, as far as the hint tells."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from decnet_logship.tail import Foreign, LogFile, rotated_files


def backlog_bytes(path: Path, acked: Mapping[str, int]) -> int:
    """Add up what the files of the log hold beyond what was acknowledged.

    Raises:
        Unavailable: the log cannot be read.
    """
    total = 0
    for candidate in [*rotated_files(path), path]:
        with contextlib.suppress(Foreign):
            file = LogFile.open(candidate)
            if file is not None:
                with contextlib.closing(file):
                    total += max(0, file.size_bytes() - acked.get(file.generation, 0))
    return total
