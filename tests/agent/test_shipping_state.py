"""What the agent makes of the log shipper's own word, whatever that is; `test_serve` asks the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from decnet_agent.shipping import ShippingState, ask_shipper

SAID = '{"backlog_bytes": 1234, "last_error": "the master is away", "logs": []}'


def shipper(folder: Path, said: str, code: int, complaint: str = "") -> Path:
    program = folder / "decnet-logship"
    program.write_text(
        f"#!/bin/sh\n[ \"$*\" = 'status --json' ] || exit 2\ncat <<'END'\n{said}\nEND\n"
        f"printf '%s' '{complaint}' >&2\nexit {code}\n"
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("code", "state"), [(0, "connected"), (75, "waiting"), (77, "refused"), (69, "down"), (1, "unknown")]
)
def test_its_exit_code_says_how_it_stands(tmp_path: Path, code: int, state: str) -> None:
    found = ask_shipper(shipper(tmp_path, SAID, code))
    assert found == ShippingState(state, 1234, "the master is away")
    assert found.words() == f"{state}, 1,234 bytes to be shipped: the master is away"


@pytest.mark.parametrize(
    ("said", "code", "complaint", "state"),
    [
        ("", 4, "error: It never ran here\n  what to do: Start it.", "absent"),
        ("", 1, "", "unknown"),
        ("[]", 0, "", "unknown"),
        ('{"backlog_bytes": null, "last_error": ""}', 0, "", "unknown"),
        ("\\xff", 200, "", "unknown"),
    ],
)
def test_it_need_not_make_sense(tmp_path: Path, said: str, code: int, complaint: str, state: str) -> None:
    found = ask_shipper(shipper(tmp_path, said, code, complaint))
    assert (found.state, found.backlog_bytes) == (state, None)
    assert found.reason == (" ".join(complaint.split()) or f"it ended with {code} and no word")


def test_one_that_is_not_there_or_does_not_start(tmp_path: Path) -> None:
    assert ask_shipper(tmp_path / "none") == ShippingState("absent", None, f"{tmp_path / 'none'} is not installed")
    broken = tmp_path / "broken"
    broken.write_text("no program")
    assert ask_shipper(broken).state == "unknown"
