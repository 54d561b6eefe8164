"""How one listener serves many workers: latency, memory and processor, and how all come back after it was killed.

    python bench/fan_in.py [--senders N] [--secs N] [--rate N] [--processes N] [--no-storm] [--json]

The listener is the real daemon. The senders have an identity each and the real sender's machine over mutual TLS, many
of them in one process (`bench/crowd.py`). Each writes `--rate` lines of some 300 bytes a second for `--secs`; a line's
time runs until the master acknowledged it, so it is in the journal and synced.

Then the listener is killed with all senders connected, and started again while they go on writing. They come back as
decnet-logship does, after pauses drawn at random from bounds that double up to a minute. At last the journal is read
and every line of every sender must be there once, in order.

The last line printed is one JSON object; `bench/README.md` has its keys. Exit codes: 0 nothing lost; 1 something was
lost, repeated or altered; 69 a part is missing or did not get there; 78 too few open files are allowed. Whatever ends
this program, the kernel ends its processes, and a watcher on a pipe removes the folder.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a program of the checkout: it uses the lab's pieces

from bench.crowd import line_of, stream_of  # noqa: E402
from bench.enrolled import Enrolled, enrol  # noqa: E402
from bench.host import allow_descriptors, cpu_secs, peak_mib, removed_at_the_end  # noqa: E402
from decnet_core import logs  # noqa: E402
from decnet_core.errors import DecnetError, Unavailable  # noqa: E402
from decnet_master.journal.reader import START, JournalReader  # noqa: E402
from tests.lab.processes import Daemon, free_port  # noqa: E402

PATIENCE_SECS = 240.0
"""For one word to the crowds beyond what it takes by itself; pauses of a minute may follow one another."""

CONNECTS_PER_SEC = 100
DESCRIPTORS_TO_SPARE = 1024

USUAL_DESCRIPTORS = 1024
"""Open files that systemd and shells allow at first: the listener is started with these, as anywhere."""

READ_BYTES = 4 << 20


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--senders", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--secs", type=float, default=60.0, help="of writing, before the storm (default: 60)")
    parser.add_argument("--rate", type=float, default=10.0, help="lines per second of each (default: 10)")
    parser.add_argument("--processes", type=int, default=2, help="that the senders share (default: 2)")
    parser.add_argument("--no-storm", action="store_true", help="do not kill the listener")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    options = parser.parse_args()
    if min(options.senders, options.secs, options.rate, options.processes) <= 0:
        parser.error("numbers are above zero")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logs.configure("bench", level="warning")
    try:
        allow_descriptors(options.senders + DESCRIPTORS_TO_SPARE)
        folder = Path(tempfile.mkdtemp(prefix="decnet-fan-in-", dir=options.folder))
        removed_at_the_end(folder)
        with contextlib.ExitStack() as stack:
            result = measure(options, folder, stack)
    except DecnetError as error:
        print(f"error: {error.message}\n  {error.advice}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result))
    return int(bool(result["lost"] or result["duplicated"] or result["altered"]))


def measure(options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Bring up the listener and the crowds, measure, count.

    Raises:
        Unavailable: something did not come up or did not get there.
    """

    def say(text: str) -> None:
        if not options.json:
            print(f"==> {text}", file=sys.stderr, flush=True)

    say(f"enrolling {options.senders} workers")
    names = [f"w{number:05}" for number in range(options.senders)]
    enrolled = asyncio.run(enrol(folder, None, names))
    port = free_port()
    listener = stack.enter_context(_listener(enrolled, port))
    listener.wait_for_line("listener.started", timeout_secs=60)
    crowds = [
        stack.enter_context(Crowd(folder, port, options.rate, names[number :: options.processes]))
        for number in range(options.processes)
    ]
    idle_mib = peak_mib(listener.pid)
    say("connecting")
    connected = _all(crowds, f"connect {options.senders / CONNECTS_PER_SEC}")
    say(f"writing {options.senders * options.rate:,.0f} lines/s")
    cpu_before, began = cpu_secs(listener.pid), time.monotonic()
    written = _all(crowds, f"write {options.secs}", options.secs)
    cores = (cpu_secs(listener.pid) - cpu_before) / (time.monotonic() - began)
    latencies = sorted(secs for answer in written for secs in answer["latencies"])
    rss_mib = peak_mib(listener.pid)
    storm = None
    if not options.no_storm:
        say("killing the listener")
        storm = _storm(listener, crowds)
    say("counting")
    lines = {name: count for answer in _all(crowds, "end") for name, count in answer.items()}
    listener.stop()
    return {
        **count(enrolled.master / "journal", lines),
        "p99_ms": _part_ms(latencies, 0.99),
        "rss_mib": rss_mib,
        "senders": options.senders,
        "lines": sum(lines.values()),
        "p50_ms": _part_ms(latencies, 0.5),
        "max_ms": _part_ms(latencies, 1.0),
        "kib_per_sender": round((rss_mib - idle_mib) * 1024 / options.senders),
        "cores": round(cores, 2),
        "connect": {
            "secs": round(max(answer["secs"] for answer in connected), 1),
            "failures": sum(answer["failures"] for answer in connected),
        },
        "storm": storm,
    }


def _storm(listener: Daemon, crowds: list[Crowd]) -> dict[str, Any]:
    """Kill the listener with everybody connected, and see all come back."""
    _all(crowds, "break")
    listener.kill()
    listener.start()
    listener.wait_for_line("listener.started", timeout_secs=60)
    answers = _all(crowds, f"heal {time.monotonic()}")
    resumed = sorted(secs for answer in answers for secs in answer["resumed_secs"])
    return {
        "half_secs": round(_part(resumed, 0.5), 1),
        "p99_secs": round(_part(resumed, 0.99), 1),
        "all_secs": round(resumed[-1], 1),
        "clean_secs": round(max(answer["clean_secs"] for answer in answers), 1),
        "failures": sum(answer["failures"] for answer in answers),
        "rss_mib": peak_mib(listener.pid),
    }


def count(journal: Path, lines: dict[str, int]) -> dict[str, int]:
    """Hold the journal to what was written: how much is lost, duplicated or altered."""
    found = dict.fromkeys(lines, 0)
    ends = dict.fromkeys(lines, 0)
    duplicated = altered = 0
    for batch in _batches(journal):
        name = batch.identity.partition("@")[2]
        duplicated += batch.start < ends[name]
        altered += batch.start > ends[name] or batch.stream != stream_of(name)
        ends[name] = batch.end
        for line in batch.lines:
            altered += line != line_of(name, found[name])
            found[name] += 1
    return {
        "lost": sum(max(0, lines[name] - found[name]) for name in lines),
        "duplicated": duplicated + sum(max(0, found[name] - lines[name]) for name in lines),
        "altered": altered,
    }


def _batches(journal: Path) -> Iterator[Any]:
    reader, position = JournalReader(journal), START
    while batches := reader.read(position, READ_BYTES):
        yield from batches
        position = batches[-1].next


class Crowd:
    """A process of senders; words go to its standard input, answers come from its standard output."""

    def __init__(self, folder: Path, port: int, rate: float, names: Iterable[str]) -> None:
        self._argv = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "bench.crowd"]
        self._argv += [str(port), str(rate), str(folder), *names]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._process is not None  # noqa: S101 -- it was entered
        self._process.kill()
        self._process.communicate()

    def say(self, words: str) -> None:
        """Give an order."""
        assert self._process is not None  # noqa: S101 -- it was entered
        assert self._process.stdin is not None  # noqa: S101 -- a pipe was asked for
        self._process.stdin.write(words.encode() + b"\n")
        self._process.stdin.flush()

    def hear(self, deadline: float) -> dict[str, Any]:
        """Wait for the answer.

        Raises:
            Unavailable: none came in time, or the process ended.
        """
        assert self._process is not None  # noqa: S101 -- it was entered
        assert self._process.stdout is not None  # noqa: S101 -- a pipe was asked for
        line = b""
        if select.select([self._process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
            line = self._process.stdout.readline()
        if not line:
            raise Unavailable("The senders did not get there", "Try fewer of them, or a quieter machine.")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _all(crowds: list[Crowd], words: str, takes_secs: float = 0.0) -> list[dict[str, Any]]:
    """Give all the same order and wait for all answers."""
    for crowd in crowds:
        crowd.say(words)
    deadline = time.monotonic() + takes_secs + PATIENCE_SECS
    return [crowd.hear(deadline) for crowd in crowds]


def _listener(enrolled: Enrolled, port: int) -> Daemon:
    env = enrolled.master_environment() | {"DECNET_LISTENER_ADDRESS": f"127.0.0.1:{port}"}
    argv = ["prlimit", f"--nofile={USUAL_DESCRIPTORS}:", sys.executable, "-m", "decnet_master", "listener"]
    return Daemon(argv, log_path=enrolled.folder / "listener.log", env=env)


def _part(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def _part_ms(ordered: list[float], part: float) -> float:
    return round(_part(ordered, part) * 1000, 1)


if __name__ == "__main__":
    sys.exit(main())
