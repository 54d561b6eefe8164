"""What the tap's programs in the kernel cost those who run under them, and whether they lose anything.

    python bench/tap.py [--rounds N] [--commands N] [--json]        (as root)

A process in a pid namespace of its own stands for a decky. It works with nothing attached (`none`), with what watches
processes (`commands`), and with what watches terminals too (`all`); the three alternate, and each figure is the best of
the rounds, because neighbours only ever slow one down. `ratio` is a figure's cost with `all` by that with `none`.

    call_ns        one getppid(2), by way of Python: what every system call of the host pays
    write_secs     100 MB written by 64 KiB, read back, and removed
    commands_secs  /bin/true, so many times, one after the other
    screen_secs    20 MB from one end of a terminal to the other

`told` and `lost` are of a run with `all` in which the records are read as the tap reads them: commands that were run,
and were told; `per_s` is how fast they came. `lost` is 0, or something is wrong; the exit code says so too.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Self

from decnet_agent.tap import decoding
from decnet_agent.tap.holdings import Holdings
from decnet_agent.tap.probes import KernelProbes
from decnet_agent.tap.programs import Kind
from decnet_agent.tap.terminal_probes import TerminalProbes

MODES = ("none", "commands", "all")

DECKY = r"""
import json, os, pty, subprocess, sys, time, tty
print(os.getpid(), flush=True)
for line in sys.stdin:
    what, number, folder = json.loads(line)
    begun = time.perf_counter()
    if what == "call_ns":
        for _ in range(number):
            os.getppid()
    elif what == "write_secs":
        path = os.path.join(folder, "file")
        with open(path, "wb", buffering=0) as file:
            for _ in range(number):
                file.write(bytes(65536))
        with open(path, "rb", buffering=0) as file:
            while file.read(65536):
                pass
        os.unlink(path)
    elif what == "commands_secs":
        for _ in range(number):
            os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}), 0)
    elif what == "screen_secs":
        master, slave = pty.openpty()
        tty.setraw(slave)
        for _ in range(number):
            left = os.write(slave, bytes(2048))
            while left:
                left -= len(os.read(master, 65536))
        os.close(master)
        os.close(slave)
    print(json.dumps((time.perf_counter() - begun) * (1e9 / number if what == "call_ns" else 1)), flush=True)
"""
WORK = {"call_ns": 200_000, "write_secs": 1600, "commands_secs": 200, "screen_secs": 10_000}


class Decky:
    """The process that stands for one."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        argv = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", DECKY]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._words, self._answers = _there(self._process.stdin), _there(self._process.stdout)
        self._answers.readline()
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self.namespace = Path(f"/proc/{children[0]}/ns/pid").stat().st_ino

    def work(self, what: str, number: int) -> float:
        """Have something done, and tell how long it took, in the unit of its name."""
        self._words.write(json.dumps((what, number, self._folder)) + "\n")
        self._words.flush()
        return float(json.loads(self._answers.readline()))

    def end(self) -> None:
        """End it."""
        self._process.communicate(timeout=60)


def _there(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("the process has no such pipe")
    return pipe


class Reader:
    """Reads both rings, as the tap does, in a thread."""

    def __init__(self, processes: KernelProbes, terminals: TerminalProbes | None) -> None:
        self._processes, self._terminals = processes, terminals
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.executed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._drain()

    def _read(self) -> None:
        poll = select.poll()
        for probes in filter(None, (self._processes, self._terminals)):
            poll.register(probes.fd, select.POLLIN)
        while not self._over.is_set():
            poll.poll(20)
            self._drain()

    def _drain(self) -> None:
        for data in self._processes.read(100_000):
            self.executed += decoding.decode(data).kind is Kind.EXECUTED
        self._processes.consume()
        if self._terminals is not None:
            for _ in self._terminals.read(100_000):
                pass
            self._terminals.consume()


@contextmanager
def watched(mode: str, decky: Decky) -> Iterator[Reader | None]:
    """Watch a decky while the block runs."""
    with ExitStack() as stack:
        if mode == "none":
            yield None
            return
        processes = KernelProbes()
        stack.callback(processes.close)
        terminals = None
        if mode == "all":
            terminals = TerminalProbes(Holdings(), processes.maps, continued=False)
            stack.callback(terminals.close)
        processes.watch(decky.namespace)
        yield stack.enter_context(Reader(processes, terminals))


def measure(rounds: int, commands: int) -> dict[str, Any]:
    """Do all of it."""
    with tempfile.TemporaryDirectory(prefix="decnet-tap-bench-") as folder:
        decky = Decky(folder)
        best: dict[str, dict[str, float]] = {mode: {} for mode in MODES}
        for _ in range(rounds):
            for mode in MODES:
                with watched(mode, decky):
                    for what, number in WORK.items():
                        took = decky.work(what, number)
                        best[mode][what] = min(took, best[mode].get(what, took))
        with watched("all", decky) as reader:
            took = decky.work("commands_secs", commands)
        decky.end()
    told = 0 if reader is None else reader.executed
    return {
        **{mode: {what: round(value, 4) for what, value in figures.items()} for mode, figures in best.items()},
        "ratio": {what: round(best["all"][what] / best["none"][what], 3) for what in WORK},
        "run": commands,
        "told": told,
        "lost": commands - told,
        "per_s": round(commands / took),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--commands", type=int, default=5000)
    parser.add_argument("--json", action="store_true", help="nothing but the figures")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("run it as root")
    if not options.json:
        print(f"==> {options.rounds} rounds of {', '.join(WORK)} under {', '.join(MODES)}", file=sys.stderr)
    result = measure(options.rounds, options.commands)
    print(json.dumps(result))
    return 0 if result["lost"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
