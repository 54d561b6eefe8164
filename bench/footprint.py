"""What an idle site costs: resident memory of every daemon after a deploy, and how fast the programs say their version.

    python bench/footprint.py [--deckies N] [--idle-secs N]     (as root, after scripts/setup)

Brings up the demonstration's site (SQLite, one worker, N SSH deckies), lets it idle, and reads VmRSS of each process.
`--version` is the median of ten runs, beside `python -c pass` in the same run: the limit. The last line is one JSON
object: {"deckies", "rss_mib": {program: MiB}, "version_ms": {"decnet-agent": …, "python": …}, "ratio": agent/python}.

Processes share the interpreter's pages, so the sum of VmRSS is more than a host really spends; in an environment that
holds only a worker's wheels the figures are a few MiB lower than in a checkout's.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.lab.engine import LabEngine  # noqa: E402 -- the lab lies beside the tests
from tests.lab.image import ensure_images  # noqa: E402
from tests.lab.lan import Lan  # noqa: E402
from tests.lab.site import Site  # noqa: E402

RUNS = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deckies", type=int, default=3)
    parser.add_argument("--idle-secs", type=float, default=10.0)
    options = parser.parse_args()
    with LabEngine() as engine, Lan() as lan, tempfile.TemporaryDirectory(prefix="decnet-footprint-") as folder:
        ensure_images(engine, lambda line: print(f"==> {line}", file=sys.stderr))
        with Site(Path(folder), engine.docker_host, lan) as site:
            site.master_cli("deploy", "--count", str(options.deckies), "--service", "ssh", "--json")
            time.sleep(options.idle_secs)
            rss = {
                "master serve": _rss_mib(site.master.pid),
                **{f"master {name}": mib for name, mib in _children(site.master.pid).items()},
                "agent serve": _rss_mib(site.agent.pid),
                **_children(site.agent.pid),
                "updater serve": _rss_mib(site.updater.pid),
            }
    agent = Path(sys.executable).parent / "decnet-agent"
    version_ms = {
        "decnet-agent": _median_ms([str(agent), "--version"]),
        "python": _median_ms([sys.executable, "-c", "pass"]),
    }
    result = {
        "deckies": options.deckies,
        "rss_mib": rss,
        "version_ms": version_ms,
        "ratio": round(version_ms["decnet-agent"] / version_ms["python"], 1),
    }
    print(json.dumps(result))


def _children(pid: int) -> dict[str, float]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {_name(int(child)): _rss_mib(int(child)) for child in children}


def _name(pid: int) -> str:
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    return "logship serve" if any("decnet-logship" in word for word in argv) else argv[-1]


def _rss_mib(pid: int) -> float:
    [kib] = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return round(int(kib) / 1024, 1)


def _median_ms(argv: list[str]) -> float:
    def once() -> float:
        began = time.perf_counter()
        subprocess.run(argv, check=True, capture_output=True)
        return (time.perf_counter() - began) * 1000

    once()
    return round(statistics.median(once() for _ in range(RUNS)), 1)


if __name__ == "__main__":
    main()
