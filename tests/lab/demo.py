"""The demonstration behind scripts/demo: a site, three deckies, an intruder, and every event as it reaches the API.

With `--once` it ends after the attack, with exit code 0 if everything that the intruder did is on record, else 1;
with `--json` standard output holds one JSON object and nothing else, and progress goes to standard error:

    {"ok": true, "deckies": 3, "events": {"login.failed": n, …}, "missing": [], "latency_ms": {"p50": …, "p99": …},
     "setup_secs": …}

`latency_ms` runs from the intruder's keystroke (the newline after a command) to the event at the API's client.
`setup_secs` runs from the start of scripts/demo to the third decky ready for its first login.

Everything lives in one temporary folder, one Docker engine of its own and one network namespace. Ctrl-C and SIGTERM
remove them; after a `kill -9` the kernel ends the processes, and a janitor process removes the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from decnet_core.errors import DecnetError
from decnet_core.program import print_error
from tests.lab import janitor
from tests.lab.attack import Expectation, Target, visit
from tests.lab.engine import LabEngine
from tests.lab.image import ensure_images
from tests.lab.lan import Lan
from tests.lab.screen import Screen, Seen, find
from tests.lab.site import Site

DECKIES = 3
_READY_SECS = 60.0
_EVENTS_SECS = 30.0
_SAFE = dict.fromkeys((*range(32), *range(127, 160)), "·")
"""Control characters of an attacker never reach the terminal."""


def main() -> int:
    """Run the demonstration and return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="See DECNET catch an intruder on this machine.")
    parser.add_argument("--once", action="store_true", help="end after the attack")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output at the end")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, _interrupt)
    demo = Demo(quiet_stdout=options.json)
    try:
        with ExitStack() as stack:
            result = demo.run(stack)
            if options.json:
                sys.stdout.write(json.dumps(result) + "\n")
                sys.stdout.flush()
            if not options.once:
                demo.stay()
            demo.say("cleaning up")
    except KeyboardInterrupt:
        demo.say("cleaned up")
        return 0 if not options.once else 130
    except DecnetError as error:
        print_error(error)
        return int(error.exit_code)
    return 0 if result["ok"] else 1


class Demo:
    """One demonstration; see the module's text."""

    def __init__(self, *, quiet_stdout: bool) -> None:
        self._out = sys.stderr if quiet_stdout else sys.stdout
        self._began = float(os.environ.get("DECNET_DEMO_BEGAN") or time.time())
        self._site: Site | None = None

    def say(self, line: str) -> None:
        """Print one line of progress."""
        print(f"==> {line}", file=self._out, flush=True)

    def run(self, stack: ExitStack) -> dict[str, Any]:
        """Bring everything up, attack, and say what was seen."""
        self.say("engine, images and a private LAN")
        engine = stack.enter_context(LabEngine())
        ensure_images(engine, self.say)
        lan = stack.enter_context(Lan())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="decnet-demo-")))
        stack.enter_context(janitor.watching(folder))
        self._site = site = stack.enter_context(Site(folder, engine.docker_host, lan, progress=self.say))
        self.say(f"deploying {DECKIES} SSH deckies")
        site.master_cli("deploy", "--count", str(DECKIES), "--service", "ssh", "--json")
        screen = stack.enter_context(Screen(site.api_url, site.admin_password, self._show))
        targets = ready_targets(screen, lan)
        setup_secs = time.time() - self._began
        for target in targets:
            self.say(f"decky {target.name} at {target.address}, account {target.user} / {target.password}")
        expected: list[Expectation] = []
        for target in targets:
            self.say(f"attacking {target.name}")
            expected += visit(lan.attacker, target, secrets.token_hex(3))
        missing = screen.wait_for(expected, timeout_secs=_EVENTS_SECS)
        return self._judge(expected, missing, screen.seen(), len(targets), setup_secs)

    def stay(self) -> None:
        """Say how to look around, and wait for Ctrl-C."""
        assert self._site is not None
        configuration = self._site.folder / "master" / "decnet.ini"
        self.say(f"API: {self._site.api_url}   user: admin   password: {self._site.admin_password}")
        self.say(f"attack by hand: nsenter --net={self._site.lan.attacker.netns} ssh USER@ADDRESS")
        self.say(f"watch: DECNET_CONFIG={configuration} decnet-master events --follow")
        self.say("Ctrl-C ends and cleans up")
        while True:
            signal.pause()

    def _show(self, seen: Seen) -> None:
        row = seen.row
        at = time.strftime("%H:%M:%S", time.localtime(seen.arrived_at))
        lag_ms = (seen.arrived_at - _epoch_secs(row["at"])) * 1000
        facts = " ".join(f"{name}={value}" for name, value in row["fields"].items()) or row["text"]
        line = f"{at} {row['decky']} {row['event_type']} {row['src_ip'] or '-'} {facts}"
        print(f"    {line.translate(_SAFE)[:160]}  [{lag_ms:.0f} ms]", file=self._out, flush=True)

    def _judge(
        self,
        expected: Sequence[Expectation],
        missing: Sequence[Expectation],
        seen: Sequence[Seen],
        deckies: int,
        setup_secs: float,
    ) -> dict[str, Any]:
        arrivals = [(one, find(one, seen)) for one in expected if one.keystroke]
        latencies = sorted((found.arrived_at - one.typed_at) * 1000 for one, found in arrivals if found)
        for one in missing:
            self.say(f"MISSING: {one.event_type} of {time.strftime('%H:%M:%S', time.localtime(one.typed_at))}")
        result = {
            "ok": not missing and deckies == DECKIES,
            "deckies": deckies,
            "events": dict(sorted(Counter(one.row["event_type"] for one in seen).items())),
            "missing": sorted(one.event_type for one in missing),
            "latency_ms": {"p50": _percentile(latencies, 50), "p99": _percentile(latencies, 99)},
            "setup_secs": round(setup_secs, 1),
        }
        self.say(f"{'every event is on record' if result['ok'] else 'EVENTS ARE MISSING'}; {json.dumps(result)}")
        return result


def ready_targets(screen: Screen, lan: Lan) -> list[Target]:
    """Return the running deckies once each greets on its SSH port, with an account that lets an attacker in."""
    targets = [
        Target(decky["name"], decky["ip"], decky["accounts"][0]["user"], decky["accounts"][0]["password"])
        for decky in screen.get("/api/v1/deckies")["deckies"]
        if decky["phase"] == "running"
    ]
    deadline = time.monotonic() + _READY_SECS
    for target in targets:
        while not _greets(lan, target):
            if time.monotonic() > deadline:
                raise DecnetError(f"{target.name} at {target.address} does not greet on port 22")
            time.sleep(0.1)
    return targets


def _greets(lan: Lan, target: Target) -> bool:
    probe = (
        "import socket,sys; s=socket.create_connection((sys.argv[1],22),2); s.settimeout(2); "
        "sys.exit(not s.recv(4).startswith(b'SSH-'))"
    )
    return lan.attacker.run([sys.executable, "-S", "-c", probe, target.address]).returncode == 0


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    if not ordered:
        return None
    if len(ordered) == 1:
        return round(ordered[0], 1)
    return round(statistics.quantiles(ordered, n=100, method="inclusive")[percent - 1], 1)


def _epoch_secs(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
