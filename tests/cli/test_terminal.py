"""What is printed cannot act on a terminal, and many results make one exit code."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_core.errors import DecnetError, ExitCode, PartialFailure
from decnet_master.cli import terminal
from decnet_master.cli.outcome import judge
from tests.store.samples import HOSTILE_TEXTS


@given(st.text(st.characters(codec=None)))
def test_safe_text_is_printable_and_bounded(text: str) -> None:
    shown = terminal.safe(text)
    assert shown == "" or shown.isprintable()
    assert len(shown) <= terminal.MAX_CELL_CHARS * 10 + 1


def test_what_acts_on_a_terminal_is_shown_as_its_code() -> None:
    assert terminal.safe("\x1b[2J\x07\r\n") == r"\x1b[2J\x07\x0d\x0a"
    assert terminal.safe("a\N{RIGHT-TO-LEFT OVERRIDE}b") == r"a\u202eb"
    assert terminal.safe("plain text, ünïcode") == "plain text, ünïcode"


def test_tables_and_json_of_hostile_text(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table(("text",), [(text,) for text in (*HOSTILE_TEXTS, "[red]markup[/red]", "[link=x]")])
    out = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in out)
    assert "[red]markup[/red]" in out
    for text in HOSTILE_TEXTS:
        terminal.print_json({"text": text})
        out = capsys.readouterr().out
        assert out.isascii()
        assert out[:-1].isprintable()
    assert json.loads(out)["text"] == HOSTILE_TEXTS[-1]


def test_one_exit_code_out_of_many() -> None:
    judge([("w1", True), ("w2", True)], "answered")
    with pytest.raises(PartialFailure, match="1 of 2 workers answered; not w2") as some:
        judge([("w1", True), ("w2", False)], "answered")
    assert some.value.exit_code is ExitCode.PARTIAL
    for results in ([("w1", False)], []):
        with pytest.raises(DecnetError) as none:
            judge(results, "answered")
        assert none.value.exit_code is ExitCode.FAILED
    judge([], "answered", none_is_fine=True)
