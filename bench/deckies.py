"""What deckies cost a worker, what watching them costs their visitors, and whether a fast visitor escapes the record.

    python bench/deckies.py [--deckies N] [--rounds N] [--secs S] [--json]     (as root, after scripts/setup)

One worker of real parts: the agent with its tap and its containment, a Docker engine, a LAN with an attacker on it.

    start       N SSH deckies, from the request until all run and until the attacker has read every banner
    memory      what the machine had less afterwards, by decky; PSS, which divides pages by those who share them, of a
                decky's processes, of its containerd-shim, of an open session, of the agent and its children
    overhead    logins one after the other, and 100 MB written and synced in a decky, with the tap and without: the two
                alternate by starting the agent again, and each figure is the best of the rounds
    record      lines typed at a prompt, and programs started by two visitors at once, as fast as they can for S
                seconds: how many a second, and how many of them the worker's event log lacks or has twice

`lost` and `twice` are 0, or something is wrong; the exit code 1 says so too. 69: a part is missing or did not answer.
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.deploy import banners  # noqa: E402
from decnet_core.errors import DecnetError, ExitCode, Unavailable  # noqa: E402
from decnet_core.fleet import Account, DeckySpec, Shard  # noqa: E402
from tests.agent.worker import Worker  # noqa: E402 -- the lab lies beside the tests
from tests.lab.engine import LabEngine  # noqa: E402
from tests.lab.image import ensure_images  # noqa: E402
from tests.lab.lan import SSH_OPTIONS, Lan  # noqa: E402

ROOT_ACCOUNT = Account(user="root", password="toor")  # noqa: S106 -- the deckies' own
SESSIONS = 20
LOGINS = 10
SETTLE_SECS = 5.0
PATIENCE_SECS = 600.0
WRITE = "dd if=/dev/zero of=/var/tmp/bench bs=64k count=1600 conv=fsync 2>/dev/null; rm /var/tmp/bench"
SPAWN = """
import os, sys, time
until, number = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < until:
    os.waitpid(os.posix_spawn("/bin/true", ["/bin/true", sys.argv[1], str(number)], {}), 0)
    number += 1
print(number)
"""


class Bench:
    """The worker, its deckies and the attacker."""

    def __init__(self, worker: Worker, lan: Lan) -> None:
        self.worker, self.lan = worker, lan
        self.addresses: list[str] = []
        self.containers: list[str] = []

    def start(self, count: int) -> dict[str, float]:
        """Deploy so many, and say how long it took."""
        specs = tuple(
            DeckySpec(name=f"web-{number:03}", services=("ssh",), accounts=(ROOT_ACCOUNT,), seed=number)
            for number in range(count)
        )
        free = _available_kib()
        with banners(self.lan, count) as said:
            began = time.monotonic()
            shard = Shard(generation=1, deckies=specs)
            answer = self.worker.call("POST", "/deploy", shard.model_dump(mode="json"), timeout=PATIENCE_SECS)
            running_secs = time.monotonic() - began
            deckies = answer.document["deckies"]
            if {decky["phase"] for decky in deckies} != {"running"}:
                raise Unavailable(f"Not all deckies run: {Counter(decky['phase'] for decky in deckies)}")
            last = max(said(PATIENCE_SECS)) - began
        self.addresses = [decky["ip"] for decky in deckies]
        self.containers = [decky["container"] for decky in deckies]
        time.sleep(SETTLE_SECS)
        return {
            "running_secs": round(running_secs, 1),
            "last_banner_secs": round(last, 1),
            "taken_mib_per_decky": round((free - _available_kib()) / 1024 / count, 1),
        }

    def memory(self) -> dict[str, float]:
        """Say what a decky, its shim and one session hold, and what the agent and its children do."""
        held = [_pss_kib(_processes_of(container)) for container in self.containers]
        shims = [pid for pid, argv in _commands() if b"containerd-shim" in argv.partition(b"\0")[0]]
        first = self.containers[0]
        before = _pss_kib(_processes_of(first))
        with ExitStack() as stack:
            for _ in range(SESSIONS):
                stack.enter_context(self._session())
            time.sleep(SETTLE_SECS)
            per_session = (_pss_kib(_processes_of(first)) - before) / SESSIONS
        agent = self.worker.daemon.pid
        children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        return {
            "decky_pss_mib": round(sum(held) / len(held) / 1024, 2),
            "shim_pss_mib": round(_pss_kib(shims) / max(1, len(shims)) / 1024, 2),
            "session_pss_mib": round(per_session / 1024, 2),
            "agent_pss_mib": round(_pss_kib([agent]) / 1024, 1),
            **{f"{_role(int(child))}_pss_mib": round(_pss_kib([int(child)]) / 1024, 1) for child in children},
        }

    def overhead(self, rounds: int) -> dict[str, Any]:
        """Time logins and a large write with the tap and without it, in turn."""
        best: dict[bool, dict[str, float]] = {}
        for number in range(2 * rounds):
            tap = number % 2 == 0
            if number:
                self.worker.start_again(tap=tap)
            if tap:
                self._await_tap()
            found = {"login_secs": self._timed(self._logins) / LOGINS, "write_secs": self._timed(self._write)}
            so_far = best.setdefault(tap, found)
            best[tap] = {key: min(value, so_far[key]) for key, value in found.items()}
        self.worker.start_again(tap=True)
        self._await_tap()
        return {
            "with_tap": {key: round(value, 3) for key, value in best[True].items()},
            "without": {key: round(value, 3) for key, value in best[False].items()},
            "ratio": {key: round(best[True][key] / best[False][key], 2) for key in best[True]},
        }

    def record(self, secs: float) -> dict[str, Any]:
        """Type and start as much as a visitor can, and count what the event log has of it."""
        typed = [f": typed {number}" for number in range(int(5000 * secs / 2))]
        began = time.monotonic()
        self._ssh(0, None, input="\n".join(["PS1=", *typed, "exit\n"]).encode(), tty=True)
        typing_secs = time.monotonic() - began
        visitors = [self._popen(0, f"python3 - {mark} {secs}") for mark in ("one", "two")]
        counts = [int(visitor.communicate(SPAWN.encode(), timeout=PATIENCE_SECS)[0]) for visitor in visitors]
        run = [
            f"/bin/true {mark} {number}"
            for mark, count in zip(("one", "two"), counts, strict=True)
            for number in range(count)
        ]
        wanted = Counter(typed + run)
        return {
            "typed": len(typed),
            "typed_per_s": round(len(typed) / typing_secs),
            "programs": len(run),
            "programs_per_s": round(len(run) / secs),
            **self._compared(wanted),
        }

    def _compared(self, wanted: Counter[str]) -> dict[str, int]:
        """Wait until the log has all of it or gains nothing any more."""
        told: Counter[str] = Counter()
        quiet_since, seen = time.monotonic(), -1
        while time.monotonic() - quiet_since < SETTLE_SECS and not told >= wanted:
            told = Counter(event.fields.get("command", "") for event in self.worker.events())
            if (now := sum(told.values())) != seen:
                quiet_since, seen = time.monotonic(), now
            time.sleep(0.5)
        mine = Counter({command: told[command] for command in wanted})
        dropped = sum(int(e.fields["count"]) for e in self.worker.events() if e.event_type == "evidence.dropped")
        return {"lost": (wanted - mine).total(), "twice": (mine - wanted).total(), "told_as_dropped": dropped}

    def _await_tap(self) -> None:
        """Wait until what is run in the last decky is told."""
        self.worker.daemon.wait_for_line("tap.decky_watched", timeout_secs=PATIENCE_SECS)
        mark = f"/bin/true watched {time.monotonic_ns()}"
        deadline = time.monotonic() + PATIENCE_SECS
        while not any(event.fields.get("command") == mark for event in self.worker.events()[-50:]):
            if time.monotonic() > deadline:
                raise Unavailable("The tap tells nothing")
            self._ssh(0, mark)
            time.sleep(0.5)

    def _logins(self) -> None:
        for _ in range(LOGINS):
            self._ssh(0, "true")

    def _write(self) -> None:
        self._ssh(0, WRITE)

    def _timed(self, work: Callable[[], None]) -> float:
        began = time.monotonic()
        work()
        return time.monotonic() - began

    def _ssh(self, number: int, command: str | None, **more: Any) -> None:
        done = self.lan.attacker.ssh(
            self.addresses[number], "root", ROOT_ACCOUNT.password, command, timeout_secs=PATIENCE_SECS, **more
        )
        if done.returncode:
            raise Unavailable(f"{self.addresses[number]} does not let root in: {done.stderr.decode()[-200:]}")

    def _popen(self, number: int, command: str) -> subprocess.Popen[bytes]:
        argv = ["sshpass", "-e", "ssh", *SSH_OPTIONS, f"root@{self.addresses[number]}", command]
        return self.lan.attacker.popen(argv, env={"SSHPASS": ROOT_ACCOUNT.password})

    def _session(self) -> subprocess.Popen[bytes]:
        session = self._popen(0, "echo in; cat")  # it ends with its input, which the block closes
        if session.stdout is None or not session.stdout.readline():
            raise Unavailable("A session was refused")
        return session


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--deckies", type=int, default=100, help="default: %(default)s; at most 100")
    parser.add_argument(
        "--rounds", type=int, default=3, help="with the tap and without, so many times each; 0: neither"
    )
    parser.add_argument("--secs", type=float, default=10.0, help="of programs started as fast as can be")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    options = parser.parse_args()
    if not 1 <= options.deckies <= 100:
        parser.error("--deckies must lie between 1 and 100: they share half of a /24")
    say: Callable[[str], None] = (lambda _: None) if options.json else lambda line: print(f"==> {line}", flush=True)
    try:
        with LabEngine() as engine, Lan() as lan, tempfile.TemporaryDirectory(prefix="decnet-deckies-") as folder:
            ensure_images(engine, say)
            engine.sweep()
            settings = {"interface": lan.parent, "subnet": lan.subnet, "ip-range": f"{lan.host(128)}/25"}
            with Worker(Path(folder), docker_host=engine.docker_host, lan=settings, tap=True) as worker:
                try:
                    result = measured(Bench(worker, lan), options, say)
                finally:
                    engine.sweep()
    except (DecnetError, subprocess.SubprocessError) as error:
        print(f"error: {getattr(error, 'message', None) or error}", file=sys.stderr)
        return ExitCode.UNAVAILABLE
    print(json.dumps(result))
    return 1 if result["record"]["lost"] or result["record"]["twice"] else 0


def measured(bench: Bench, options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Take one figure after the other."""
    result: dict[str, Any] = {"deckies": options.deckies}
    say(f"Starting {options.deckies} deckies")
    result["start"] = bench.start(options.deckies)
    say("Reading who holds what")
    result["memory"] = bench.memory()
    if options.rounds:
        say("Logging in and writing, with the tap and without")
        result["overhead"] = bench.overhead(options.rounds)
    say("Typing and starting as much as can be")
    result["record"] = bench.record(options.secs)
    return result


def _available_kib() -> int:
    return int(re.findall(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[0])


def _commands() -> list[tuple[int, bytes]]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((int(folder.name), (folder / "cmdline").read_bytes()))
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
    return found


def _processes_of(container: str) -> list[int]:
    """Return the processes in a container's control group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if container in (folder / "cgroup").read_text():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _pss_kib(pids: Sequence[int]) -> int:
    total = 0
    for pid in pids:
        try:
            total += int(re.findall(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[0])
        except (FileNotFoundError, ProcessLookupError, IndexError):
            continue
    return total


def _role(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")[-1]


if __name__ == "__main__":
    sys.exit(main())
