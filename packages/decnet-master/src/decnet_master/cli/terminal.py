"""Print for people and for programs, and let nothing that an attacker wrote act on the terminal.

`safe` is applied to every cell of every table here, so that no verb can forget it: what is not printable (control
characters, escape sequences, line ends, marks that reverse the direction of text) is shown as its code. JSON is
printed with ASCII escapes, which does the same for programs whose output ends on a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_CELL_CHARS = 400
"""Of foreign text in a table; `--json` has it whole."""

PIPE_COLUMNS = 400


def safe(text: object) -> str:
    """Return the text with everything that is not printable written as its code, cut to a cell's length."""
    words = str(text)
    more = "…" if len(words) > MAX_CELL_CHARS else ""
    return "".join(_shown(character) for character in words[:MAX_CELL_CHARS]) + more


def yes(ok: bool) -> str:
    """Write a yes, or a no that is seen."""
    return "yes" if ok else "NO"


def say(line: str) -> None:
    """Print one line of our own words."""
    sys.stdout.write(safe(line) + "\n")


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def print_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; None is shown as a dash."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 -- `--json` needs none of it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if cell is None else safe(cell)) for cell in row))
    # What reads a pipe wants whole lines, whatever the width of a terminal that is not there.
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)


def ask_passphrase(*, twice: bool = False) -> str:
    """Ask for the passphrase of the CA's key; it is not shown, and comes from the terminal, never from arguments."""
    import typer  # noqa: PLC0415 -- `--json` needs none of it

    word: str = typer.prompt("Passphrase of the CA's key", hide_input=True, confirmation_prompt=twice, err=True)
    return word


def say_failure(who: str, error: str | None, advice: str | None) -> None:
    """Print why one of many failed, and what to do, below their table: a column would fold it to shreds."""
    words = error or "failed, and did not say why"
    say(words if who in words else f"{who}: {words}")
    if advice:
        say(f"  what to do: {advice}")


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
