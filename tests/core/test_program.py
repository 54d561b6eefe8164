from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from decnet_core import errors
from decnet_core.errors import DecnetError, ExitCode


def run(body):
    code = "import argparse, sys\nfrom decnet_core.errors import *\nfrom decnet_core.program import run_program\n"
    code += "def main():\n" + textwrap.indent(textwrap.dedent(body), "    ") + "\nrun_program(main)\n"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pass", 0), ("return 0", 0), ("return 3", 3), ("return ExitCode.PARTIAL", 3),
        ("sys.exit()", 0), ("sys.exit(0)", 0), ("sys.exit(2)", 2), ("raise KeyboardInterrupt", 130),
        ("argparse.ArgumentParser().parse_args(['--help'])", 0),
        ("argparse.ArgumentParser().parse_args(['--nonsense'])", 2),
    ],
)  # fmt: skip
def test_what_main_says_is_the_exit_code(body, code):
    done = run(body)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_an_error_of_ours_is_two_lines_and_its_code():
    done = run("raise Conflict('The name web-1 is taken', 'Choose another.')")
    assert done.returncode == ExitCode.CONFLICT
    assert done.stderr == "error: The name web-1 is taken\n  what to do: Choose another.\n"


def test_an_error_without_advice_is_one_line():
    assert run("raise DecnetError('It failed')").stderr == "error: It failed\n"


def test_a_word_instead_of_a_code_is_told_and_fails():
    done = run("sys.exit('no')")
    assert (done.returncode, done.stderr) == (1, "no\n")


def test_a_bug_keeps_its_traceback():
    done = run("return 1 / 0")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("body", ["print('x' * 200_000)", "print('x')", "argparse.ArgumentParser().parse_args(['-h'])"])
def test_a_reader_that_went_away_is_no_failure_of_ours(body):
    code = "import argparse\nfrom decnet_core.program import run_program\n"
    code += "def main():\n    input()\n    " + body + "\nrun_program(main)\n"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    ) as process:
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 141


def every_error():
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DecnetError)]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_the_tree_in_the_docstring_is_the_tree(kind):
    """The number after a class's name in the drawing is its exit code; a class without one has its parent's."""
    (line,) = [line for line in errors.__doc__.splitlines() if f" {kind.__name__} " in line.replace("(", " ")]
    words = line.split()
    assert kind("m", "a").exit_code == (int(words[words.index("exit") + 1]) if "exit" in words else 1)


def test_codes_are_those_of_sysexits():
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4, 5, 69, 75, 77, 78]
