"""Let atheris (libFuzzer with Python's coverage) look for inputs: python -m tests.fuzz.guided TARGET [--secs N].

It fuzzes from the committed corpus and the seeds for a while, then `kept.keep` takes the smallest inputs that cover
what was reached. atheris is in the dependency group `fuzz`; nothing else imports it.

Source: https://llvm.org/docs/LibFuzzer.html (options), https://github.com/google/atheris
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import kept
from tests.fuzz.targets import TARGETS

OURS = ("decnet_core", "decnet_master", "decnet_agent")

MAX_WORD_BYTES = 64
"""libFuzzer takes no longer words into its dictionary."""


def main() -> int:
    """Explore a target, then keep what was found."""
    parser = argparse.ArgumentParser(prog="guided", description="Fuzz one target by coverage and keep the corpus.")
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--secs", type=int, default=60, help="how long to explore (%(default)s)")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="decnet-fuzz-") as scratch:
        found = Path(scratch) / "found"
        found.mkdir()
        for data in (*TARGETS[wanted.target].seeds, *kept.load(wanted.target)):
            (found / kept.name_of(data)).write_bytes(data)
        # A process of its own: libFuzzer never comes back, and its instrumentation would slow the next step down.
        options = (f"-max_total_time={wanted.secs}", f"-artifact_prefix={Path.cwd()}/", str(found))
        status = subprocess.run([sys.executable, "-c", _EXPLORE, wanted.target, *options], check=False).returncode
        if status:
            print(f"an input that breaks {wanted.target} was written to {Path.cwd()}", file=sys.stderr)
            return 1
        inputs = kept.keep(TARGETS[wanted.target], (path.read_bytes() for path in found.iterdir()))
    print(f"{wanted.target}: {len(inputs)} inputs, {sum(map(len, inputs))} bytes")
    return 0


_EXPLORE = "import sys; from tests.fuzz.guided import explore; explore(sys.argv[1], sys.argv[2:])"


def explore(target_name: str, options: list[str]) -> None:
    """Hand this process to libFuzzer; it does not come back."""
    import atheris  # type: ignore[import-untyped]  # it brings no types

    with atheris.instrument_imports(include=OURS):
        for name in [name for name in sys.modules if name.startswith((*OURS, "tests.fuzz.target"))]:
            del sys.modules[name]  # read again, with the instrumentation
        target = importlib.import_module("tests.fuzz.targets").TARGETS[target_name]
    with tempfile.NamedTemporaryFile("w", suffix=".dict") as dictionary:
        for token in target.tokens:
            if len(token) <= MAX_WORD_BYTES:
                dictionary.write('"{}"\n'.format("".join(f"\\x{byte:02x}" for byte in token)))
        dictionary.flush()
        given = [f"-max_len={kept.MAX_INPUT_BYTES}", f"-dict={dictionary.name}", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *given, *options], target.check)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
