"""Every command of ours that a message, a help text or a document names exists, with the options that it is named with.

Commands stand in back-quotes in messages and prose, and at the beginning of a line in the code blocks of documents.
`a b | c` is either a pipe, whose parts begin with a program, or names `a b` and `a c` at once.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from decnet_agent.cli import main as agent
from decnet_logship.cli import main as logship
from decnet_master.cli import program
from decnet_updater.cli import main as updater
from tests.packaging.wheels import ROOT

PROGRAM = r"decnet-(?:master|agent|logship|updater)"
WORD = re.compile("[a-z][a-z-]*")
SPAN = re.compile(r"`([^`]+)`")
LINE = re.compile(rf"^\s*(?:\S+[#$] )?({PROGRAM} [^#]+)", re.MULTILINE)
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(rf"(?<![\w/.-])({PROGRAM}) (.*)", re.DOTALL)

DOCUMENTS = ["README.md", "CHANGELOG.md", "SECURITY.md", "decnet.ini.example", *ROOT.glob("docs/**/*.md")]
SOURCES = sorted(ROOT.glob("packages/*/src/**/*.py"))
PARSERS = {"decnet-agent": agent, "decnet-logship": logship, "decnet-updater": updater}


def texts_of(source: Path) -> Iterator[str]:
    """Give each string of a module whole, however many lines it is written over; what it holds is shown as X."""
    text = source.read_text(encoding="utf-8")
    if "decnet-" not in text:  # taking a module apart is what costs time
        return
    tree = ast.parse(text)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


def quoted_in(text: str) -> list[str]:
    """Return what stands in back-quotes and names a program with words of its own."""
    return [span for span in SPAN.findall(text) if COMMAND.search(span)]


def commands_in(text: str) -> Iterator[tuple[str, list[str]]]:
    """Take a quoted command apart: program and words, for each that it names."""
    parent: tuple[str, list[str]] | None = None
    for part in re.split(r"\s\|\s", text):
        found = COMMAND.search(part)
        if found is not None:
            named = found[1], found[2].split()
            parent = named[0], verbs_in(*named)[:-1]
        elif parent is not None and re.match(r"[a-z]", part.strip()):
            named = parent[0], [*parent[1], *part.split()]
        else:
            continue
        yield named


def verbs_in(name: str, words: list[str]) -> list[str]:
    """Return the words that choose a verb: one, or as many as there are groups of them."""
    if name != "decnet-master":
        return words[:1]
    at, verbs = tree(), list[str]()
    for word in words:
        if not WORD.fullmatch(word) or not hasattr(at, "commands"):
            break
        verbs.append(word)
        at = at.commands.get(word)
    return verbs


@cache
def tree() -> Any:
    """The verbs of the master: a group has `commands`, and a verb has none."""
    return typer.main.get_command(program._application())


def fault_of(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """Say what is wrong with a command; None when there is such."""
    options = {word.strip("[],.").split("=")[0] for word in words if re.match(r"\[?--[a-z]", word)}
    if name == "decnet-master":
        at, known = tree(), {"--config", "--version", "--help"}
        for verb in verbs_in(name, words):
            at = at.commands.get(verb)
            if at is None:
                return f"there is no {verb}"
        known |= {option for parameter in at.params for option in (*parameter.opts, *parameter.secondary_opts)}
    else:
        verbs = [*itertools.takewhile(WORD.fullmatch, words)]
        shown = help_of(name, verbs, capsys)
        if shown is None:
            return f"there is no {' '.join(verbs)}"
        known = {*re.findall(r"--[a-z-]+", shown)}
    return f"there is no {sorted(options - known)}" if options - known else None


def help_of(name: str, verbs: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """Return the help of a verb of a worker's program, or of one below it; None when it knows none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [name, *verbs, "--help"])
        with pytest.raises(SystemExit) as ended:
            PARSERS[name]()
    shown = capsys.readouterr().out
    return None if ended.value.code else shown


def faults(named: Iterable[tuple[str, str]], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Tell of each place that names a command which there is not."""
    told = []
    for place, text in named:
        for name, words in commands_in(text):
            if (fault := fault_of(name, words, capsys)) is not None:
                told.append(f"{place}: {name} {' '.join(words)}: {fault}")
    return told


def test_every_command_that_a_message_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    named = {
        (str(source.relative_to(ROOT)), " ".join(quoted.split()))
        for source in SOURCES
        for text in texts_of(source)
        for quoted in quoted_in(text)
    }
    assert len(named) > 100, "they are found"
    assert faults(sorted(named), capsys) == []


def test_every_command_that_a_document_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    named = set()
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        found = [
            *quoted_in(BLOCK.sub("", text)),
            *(line for part in BLOCK.findall(text) for line in LINE.findall(part)),
        ]
        named |= {(str(document), " ".join(one.split())) for one in found}
    assert len(named) > 60, "they are found"
    assert faults(sorted(named), capsys) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("decnet-master user password admin", "decnet-master user password admin: there is no user"),
        ("decnet-master swarm repair w1", "decnet-master swarm repair w1: there is no repair"),
        ("decnet-master deploy --speed 9", "decnet-master deploy --speed 9: there is no ['--speed']"),
        ("decnet-master pki status | undo", "decnet-master pki undo: there is no undo"),
        ("decnet-agent repair", "decnet-agent repair: there is no repair"),
        ("decnet-logship status --fast", "decnet-logship status --fast: there is no ['--fast']"),
        ("x | ssh y decnet-master init | decnet-agent z", "decnet-agent z: there is no z"),
        ("decnet-master swarm tokens list | revoke", None),
        ("decnet-agent renew --now", None),
    ],
)
def test_what_does_not_exist_is_found(text: str, fault: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert faults([("here", text)], capsys) == ([] if fault is None else [f"here: {fault}"])
