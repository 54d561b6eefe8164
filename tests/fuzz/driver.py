"""Run targets: first their corpus, then as many drawn inputs as asked for, in batches that can be made again.

A batch is (target, seed, number): its inputs depend on nothing else but the corpus. Batches are independent, so that
several processes can share them.
"""

from __future__ import annotations

import base64
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from random import Random
from typing import Any

from tests.fuzz import kept
from tests.fuzz.mutation import Mutator
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

BATCH_FRAMES = 2000
MAX_CRASHES_SHOWN = 10
_AHEAD = 4
"""Batches that wait for a process: enough to keep it busy, few enough to hold nothing."""


@dataclass(frozen=True, slots=True)
class Crash:
    """An input that broke a promise."""

    target: str
    data: bytes
    error: str

    @property
    def kind(self) -> str:
        """What is broken where, without the words."""
        return self.error.partition(":")[0]

    def as_json(self) -> dict[str, str]:
        """Show it; `input` is base64."""
        return {"target": self.target, "error": self.error, "input": base64.b64encode(self.data).decode()}


@dataclass(frozen=True, slots=True)
class Batch:
    """Some inputs of one target; number -1 is its corpus and seeds."""

    target: str
    seed: int
    number: int
    frames: int = 0


@dataclass(slots=True)
class Tally:
    """What became of a target's inputs; `crashes` counts all, `shown` holds one of each kind."""

    frames: int = 0
    crashes: int = 0
    cpu_secs: float = 0.0
    slowest_ms: float = 0.0
    shown: list[Crash] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count another's in."""
        self.frames += other.frames
        self.crashes += other.crashes
        self.cpu_secs += other.cpu_secs
        self.slowest_ms = max(self.slowest_ms, other.slowest_ms)
        known = {crash.kind for crash in self.shown}
        new = [crash for crash in other.shown if crash.kind not in known]
        self.shown = [*self.shown, *new][:MAX_CRASHES_SHOWN]


def run(
    targets: Sequence[Target], frames: int, seed: int, jobs: int = 1, told: Callable[[int], None] = lambda _frames: None
) -> dict[str, Tally]:
    """Run all targets.

    Args:
        targets: which.
        frames: inputs to draw, shared out by the targets' shares; the corpus comes on top.
        seed: the same one draws the same inputs.
        jobs: processes.
        told: called with the number of inputs done, after each batch.
    """
    tallies = {target.name: Tally() for target in targets}
    done = 0
    for name, tally in _results(batches(targets, frames, seed), jobs):
        tallies[name].add(tally)
        done += tally.frames
        told(done)
    return tallies


def batches(targets: Sequence[Target], frames: int, seed: int) -> Iterator[Batch]:
    """Share the frames out, the targets in turn, so that a run that is stopped has tried all of them."""
    for target in targets:
        yield Batch(target.name, seed, -1)
    shares = sum(target.share for target in targets)
    left = {target.name: frames * target.share // shares for target in targets}
    left[targets[0].name] += frames - sum(left.values())
    number = 0
    while any(left.values()):
        for name in [name for name, more in left.items() if more]:
            count = min(BATCH_FRAMES, left[name])
            left[name] -= count
            yield Batch(name, seed, number, count)
        number += 1


def run_batch(batch: Batch) -> tuple[str, Tally]:
    """Run one batch."""
    target = TARGETS[batch.target]
    tally = Tally()
    began = time.process_time()
    for data in inputs(batch):
        tally.frames += 1
        started = time.perf_counter()
        try:
            target.check(data)
        except Exception as error:  # noqa: BLE001 -- any exception at all is what we are after
            tally.crashes += 1
            tally.add(Tally(shown=[Crash(target.name, data, _words(error))]))
        tally.slowest_ms = max(tally.slowest_ms, (time.perf_counter() - started) * 1000)
    tally.cpu_secs = time.process_time() - began
    return target.name, tally


def inputs(batch: Batch) -> Iterator[bytes]:
    """Make a batch's inputs."""
    target = TARGETS[batch.target]
    known = (*target.seeds, *kept.load(target.name))
    if batch.number < 0:
        yield from known
        return
    mutator = Mutator(known, target.tokens, Random(f"{batch.seed}:{target.name}:{batch.number}"))
    for _ in range(batch.frames):
        yield mutator.draw()


def summary(tallies: dict[str, Tally]) -> dict[str, Any]:
    """Make the one JSON object that a run ends with."""
    return {
        "frames": sum(tally.frames for tally in tallies.values()),
        "crashes": sum(tally.crashes for tally in tallies.values()),
        "targets": {
            name: {
                "frames": tally.frames,
                "crashes": tally.crashes,
                "cpu_secs": round(tally.cpu_secs, 1),
                "slowest_ms": round(tally.slowest_ms, 1),
            }
            for name, tally in tallies.items()
        },
        "failures": [crash.as_json() for tally in tallies.values() for crash in tally.shown],
    }


def _results(work: Iterator[Batch], jobs: int) -> Iterator[tuple[str, Tally]]:
    if jobs == 1:
        yield from map(run_batch, work)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(run_batch, batch) for batch in islice(work, jobs * _AHEAD)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(run_batch, batch) for batch in islice(work, 1)]


def _words(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {where.name}, line {where.lineno}: {str(error)[:200]}"
