"""From a program's main function to its exit code: one place for all four console scripts.

A DecnetError becomes two lines on standard error, what happened and what to do, and its exit code; Ctrl-C ends
with 130 as shells expect. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from decnet_core.errors import DecnetError, ExitCode

EXIT_CODES = """\
exit codes: 0 ok, 1 failed, 2 usage, 3 some of many failed, 4 not found, 5 conflict (port in use, name taken),
69 unavailable, 75 try again later, 77 trust (no identity, ended certificate), 78 configuration"""
"""What every program's help ends with; `decnet_core.errors` has the story."""


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Call main and end the process with what it means to a shell."""
    code: int
    try:
        code = _returned_by(main)
        sys.stdout.flush()
    except DecnetError as error:
        print_error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader went away (`… | head`): not our failure. Keep Python from flushing into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(int(code))


def _returned_by(main: Callable[[], int | None]) -> int:
    try:
        return main() or ExitCode.OK
    except SystemExit as end:  # how argument parsers end, after `--help` too
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
            return ExitCode.FAILED
        return end.code or ExitCode.OK


def print_error(error: DecnetError) -> None:
    """Tell a person what happened and what to do."""
    sys.stderr.write(f"error: {error.message}\n")
    if error.advice:
        sys.stderr.write(f"  what to do: {error.advice}\n")
