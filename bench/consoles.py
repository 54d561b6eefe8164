"""Whether one collector follows hundreds of consoles, and keeps each line exactly once when it is killed.

    python bench/consoles.py [--containers N] [--kills N] [--restarts N] [--json]

As root, after scripts/setup.

A Docker engine of its own runs N containers with a terminal, each writing numbered lines, one every two seconds; the
agent's own collector follows them all from a process of its own and writes its event log. The collector is killed at
intervals, and the engine itself (SIGKILL, then brought back, which starts the containers again). Afterwards the
engine's record of each console is read whole, by the Docker library and not by our reader, and held against the
event log line by line: what the engine recorded is the truth.

Threads, descriptors and memory are the collector's at their highest; `cpu_share` is its share of one processor over
the quiet seconds before the first kill, with N / 2 lines a second coming in.

The last line printed is one JSON object. Exit codes: 0 nothing lost, doubled or moved, 1 otherwise, 69 a
part is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import docker  # noqa: E402
from docker.types import LogConfig  # noqa: E402

from bench.host import allow_descriptors, cpu_secs, peak_mib  # noqa: E402
from decnet_agent.engine.labels import LABEL_DECKY  # noqa: E402
from decnet_agent.engine.watch import EngineWatch  # noqa: E402
from decnet_agent.evidence.appending import EventAppender  # noqa: E402
from decnet_agent.evidence.collector import Collector  # noqa: E402
from decnet_agent.evidence.event_log import EventLog  # noqa: E402
from decnet_core.errors import DecnetError, ExitCode, Unavailable  # noqa: E402
from decnet_core.events import EventType, from_syslog  # noqa: E402
from decnet_core.syslog.rfc5424 import decode  # noqa: E402
from tests.lab.engine import LabEngine  # noqa: E402 -- the lab lies beside the tests
from tests.lab.image import ensure_images  # noqa: E402

# Every life of a container has its own number, so that a line after the engine's return is another line.
_WRITER = """
read life </proc/sys/kernel/random/uuid
i=0
while sleep 2; do i=$((i + 1)); echo "$life $i"; done
"""

Say = Callable[[str], None]


def main() -> int:
    """Measure and print, or be the collector."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--containers", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=5, help="of the collector; default: %(default)s")
    parser.add_argument("--restarts", type=int, default=1, help="of the engine, killed; default: %(default)s")
    parser.add_argument("--quiet-secs", type=float, default=20.0, help="before the first kill; default: %(default)s")
    parser.add_argument("--gap-secs", type=float, default=4.0, help="between two faults; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    parser.add_argument("--collect", nargs=2, metavar=("HOST", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    allow_descriptors(2 * options.containers + 256)
    if options.collect:
        return asyncio.run(collect(options.collect[0], Path(options.collect[1])))
    say: Say = (lambda _: None) if options.json else lambda line: print(f"==> {line}", flush=True)
    try:
        with LabEngine() as engine, tempfile.TemporaryDirectory(prefix="decnet-consoles-") as folder:
            image = ensure_images(engine, say)
            result = measured(engine, image, Path(folder), options, say)
    except (DecnetError, docker.errors.DockerException) as error:
        print(f"error: {getattr(error, 'message', None) or error}", file=sys.stderr)
        return ExitCode.UNAVAILABLE
    print(json.dumps(result))
    return 1 if result["lost"] or result["duplicated"] or result["reordered"] or result["foreign"] else 0


async def collect(docker_host: str, folder: Path) -> int:
    """Be the collector, until killed."""
    event_log = EventLog.open(
        folder / "events.log", folder, host="bench", max_bytes=1 << 40, now=lambda: datetime.now(UTC)
    )
    appender = EventAppender(event_log)
    collector = Collector(EngineWatch(docker_host), appender, folder / "deckies.json")
    async with asyncio.TaskGroup() as group:
        group.create_task(appender.run())
        group.create_task(collector.run())
    return 0


@dataclass
class Collecting:
    """The collector's process, one after the other, and the most that any of them used."""

    docker_host: str
    folder: Path
    process: subprocess.Popen[bytes] = field(init=False)
    highest: dict[str, float] = field(default_factory=lambda: {"threads": 0, "descriptors": 0, "rss_mib": 0.0})

    def start(self) -> None:
        """Start one; the kernel ends it with us."""
        argv = ["setpriv", "--pdeathsig", "KILL", sys.executable, __file__]
        with (self.folder / "collector.log").open("ab") as words:
            self.process = subprocess.Popen([*argv, "--collect", self.docker_host, str(self.folder)], stderr=words)

    def kill(self) -> None:
        """End it between two lines, having looked at what it used."""
        if self.process.poll() is None:
            self.look()
        self.process.kill()
        self.process.wait()

    def look(self) -> None:
        """Take notice of what it uses."""
        if self.process.poll() is not None:
            words = (self.folder / "collector.log").read_text(errors="replace").splitlines()
            raise Unavailable(f"The collector ended by itself with exit code {self.process.returncode}: {words[-1:]}")
        pid = self.process.pid
        seen = {
            "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
            "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
            "rss_mib": peak_mib(pid),
        }
        self.highest = {name: max(self.highest[name], value) for name, value in seen.items()}


def measured(
    engine: LabEngine, image: str, folder: Path, options: argparse.Namespace, say: Say
) -> dict[str, float | int]:
    """Run it all and compare."""
    collecting = Collecting(engine.docker_host, folder)
    collecting.start()
    try:
        say(f"Starting {options.containers} containers")
        began = time.monotonic()
        names = started(engine, image, options.containers)
        start_secs = time.monotonic() - began
        used = cpu_secs(collecting.process.pid)
        watch(collecting, options.quiet_secs)
        cpu_share = (cpu_secs(collecting.process.pid) - used) / options.quiet_secs
        for number in range(options.kills):
            say(f"Killing the collector, {number + 1} of {options.kills}")
            collecting.kill()
            collecting.start()
            watch(collecting, options.gap_secs)
        for number in range(options.restarts):
            say(f"Killing the engine, {number + 1} of {options.restarts}")
            engine.restart(signal.SIGKILL, patience_secs=30 + options.containers)
            revive(engine, names)
            watch(collecting, options.gap_secs)
        say("Ending the containers, and waiting until all that they said is stored")
        truth = recorded(engine, names)
        counts = compared(truth, folder, collecting)
    finally:
        collecting.kill()
    return {
        "containers": options.containers,
        "lines": sum(map(len, truth.values())),
        **counts,
        "kills": options.kills,
        "restarts": options.restarts,
        **collecting.highest,
        "cpu_share": round(cpu_share, 3),
        "start_secs": round(start_secs, 1),
    }


def started(engine: LabEngine, image: str, count: int) -> dict[str, str]:
    """Start the containers, a few at a time, and return decky names by container id."""
    client = engine.client()

    def one(number: int) -> tuple[str, str]:
        name = f"bench-{number:04}"
        made = client.containers.create(
            image,
            entrypoint=["/bin/sh", "-c", _WRITER],
            network_mode="none",
            tty=True,
            labels={LABEL_DECKY: name},
            log_config=LogConfig(type=LogConfig.types.JSON),
        )
        made.start()
        return str(made.id), name

    try:
        with ThreadPoolExecutor(4) as pool:
            return dict(pool.map(one, range(count)))
    finally:
        client.close()


def revive(engine: LabEngine, names: dict[str, str]) -> None:
    """Start what the killed engine does not bring back, as the agent does."""
    client = engine.client()
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(client.api.start, names))
    finally:
        client.close()


def watch(collecting: Collecting, secs: float) -> None:
    """Let time pass, looking at what the collector uses."""
    until = time.monotonic() + secs
    while time.monotonic() < until:
        collecting.look()
        time.sleep(1)


def recorded(engine: LabEngine, names: dict[str, str]) -> dict[str, list[str]]:
    """End the containers and return what each console said, by the engine's record."""
    client = engine.client()

    def last_words(container: str) -> list[str]:
        client.api.kill(container)
        client.api.wait(container)
        return [str(line) for line in client.api.logs(container).decode().splitlines()]

    try:
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(names.values(), pool.map(last_words, names), strict=True))
    finally:
        client.close()


def compared(truth: dict[str, list[str]], folder: Path, collecting: Collecting) -> dict[str, int]:
    """Hold the event log against the truth once it has as many lines, or grows no more."""
    wanted = sum(map(len, truth.values()))
    have, since = -1, time.monotonic()
    while True:
        found = dict(stored(folder / "events.log"))
        now = sum(map(len, found.values()))
        if now >= wanted:
            break
        if now > have:
            have, since = now, time.monotonic()
        elif time.monotonic() - since > 60:
            break
        watch(collecting, 2)
    counts = Counter(lost=0, duplicated=0, reordered=0, foreign=0)
    for name, said in truth.items():
        told = found.pop(name, [])
        occurs = Counter(told)
        lost = [place for place, line in enumerate(said) if line not in occurs]
        if lost:
            print(f"{name}: lost {len(lost)} of {len(said)} lines, at {lost[:5]}: {said[lost[0]]}", file=sys.stderr)
        counts["lost"] += len(lost)
        counts["duplicated"] += sum(times - 1 for times in occurs.values())
        counts["foreign"] += len(occurs.keys() - set(said))
        known = [line for line in dict.fromkeys(told) if line in set(said)]
        counts["reordered"] += sum(
            a != b for a, b in zip(known, (line for line in said if line in occurs), strict=True)
        )
    counts["foreign"] += sum(map(len, found.values()))
    return dict(counts)


def stored(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each decky's lines of the event log, in its order."""
    told: defaultdict[str, list[str]] = defaultdict(list)
    for line in path.read_bytes().split(b"\n")[:-1]:
        message = decode(line)
        event = from_syslog(message, fallback_source="", fallback_cursor="", received_at=datetime.now(UTC))
        if event.event_type in {EventType.GUEST_LINE, EventType.EVIDENCE_DROPPED}:
            told[event.decky].append(event.text or str(event.event_type))
    yield from told.items()


if __name__ == "__main__":
    sys.exit(main())
