"""Replay the corpus and fire drawn inputs at the parsers: python -m tests.fuzz --frames 10000000 --json.

Exit codes: 0 every promise held, 1 one did not (the inputs are printed).
"""

from __future__ import annotations

import argparse
import json
import sys

from tests.fuzz.driver import run, summary
from tests.fuzz.targets import TARGETS

TELL_EVERY = 500_000


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Fire random and mutated input at every parser.")
    parser.add_argument("--frames", type=int, default=100_000, help="how many inputs to draw, in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other inputs (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default all")
    wanted = parser.parse_args()
    if unknown := set(wanted.targets) - TARGETS.keys():
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    if wanted.frames < 0 or wanted.jobs < 1:
        parser.error("--frames is at least 0 and --jobs at least 1")
    chosen = [target for name, target in TARGETS.items() if not wanted.targets or name in wanted.targets]
    told = 0

    def tell(done: int) -> None:
        nonlocal told
        if done // TELL_EVERY > told:
            told = done // TELL_EVERY
            print(f"{done} frames", file=sys.stderr, flush=True)

    result = summary(run(chosen, wanted.frames, wanted.seed, wanted.jobs, tell))
    if wanted.json:
        print(json.dumps(result))
    else:
        for name, tally in result["targets"].items():
            print(f"{name:16} {tally['frames']:>10} frames {tally['crashes']:>6} crashes {tally['cpu_secs']:>8} s")
        for failure in result["failures"]:
            print(f"{failure['target']}: {failure['error']}\n    {failure['input']}")
    return 1 if result["crashes"] else 0


if __name__ == "__main__":
    sys.exit(main())
