"""The committed corpus: `corpus/<target>/<16 hex digits of SHA-256>`, an input a file, found by coverage, minimised.

An input that ever broke something, or that no fuzzer would find (a certificate), has a name with a hyphen and stays.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.target import Target

FOLDER = Path(__file__).parent / "corpus"

MAX_TOTAL_BYTES = 500 << 10

MAX_TARGET_BYTES = 24 << 10
"""Twenty targets stay under the total together."""

MAX_INPUT_BYTES = 1024
"""Small inputs say what they are about."""

Feature = tuple[str, int, int, int]
"""File, line before, line, and how often that step was taken (1, 2, 3, 4 for up to 7, 5 for more)."""


def load(target: str) -> tuple[bytes, ...]:
    """Read a target's inputs, in the order of their names."""
    return tuple(path.read_bytes() for path in paths(target))


def paths(target: str) -> list[Path]:
    """List a target's files."""
    return sorted((FOLDER / target).glob("*"))


def name_of(data: bytes) -> str:
    """Name an input."""
    return hashlib.sha256(data).hexdigest()[:16]


def keep(target: Target, found: Iterable[bytes]) -> list[bytes]:
    """Replace a target's corpus by the smallest inputs that together reach all that was reached.

    Returns:
        the corpus as it is now, with what broke something once.
    """
    named = {path.name: path.read_bytes() for path in paths(target.name) if "-" in path.name}
    reached: set[Feature] = set()
    kept: dict[str, bytes] = dict(named)
    size = sum(map(len, named.values()))
    for data in sorted({*found} - {*named.values()}, key=lambda data: (len(data), data)):
        new = features(target, data) - reached
        if new and size + len(data) <= MAX_TARGET_BYTES:
            reached |= new
            kept[name_of(data)] = data
            size += len(data)
    shutil.rmtree(FOLDER / target.name, ignore_errors=True)
    (FOLDER / target.name).mkdir(parents=True)
    for name, data in kept.items():
        (FOLDER / target.name / name).write_bytes(data)
    return list(kept.values())


def features(target: Target, data: bytes) -> set[Feature]:
    """Tell what an input reaches in our packages."""
    steps: Counter[tuple[str, int, int]] = Counter()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        file = frame.f_code.co_filename
        if "/decnet_" not in file:
            return None
        before = 0

        def line(inner: FrameType, what: str, _argument: Any) -> Any:
            nonlocal before
            if what == "line":
                steps[file, before, inner.f_lineno] += 1
                before = inner.f_lineno
            return line

        return line if event == "call" else None

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        target.check(data)
    finally:
        sys.settrace(previous)
    return {(*step, count if count < 4 else 4 if count < 8 else 5) for step, count in steps.items()}
