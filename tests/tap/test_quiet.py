"""Which instruction of a function may be probed without a page that shows in the process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnet_agent.tap.quiet import quiet_distance


@pytest.mark.parametrize(
    ("code", "distance"),
    [
        ("53 48 89 fb", 0),  # push %rbx: rl_set_prompt
        ("55 53 48 81 ec", 0),  # push %rbp: rl_clear_signals
        ("41 54 55 53", 0),  # push %r12: pam_set_item
        ("49 89 c8 31 c9 e9 26 fb ff ff", 5),  # the jump of pam_start
        ("83 3d f9 75 07 00 ff 53", None),  # cmpl: readline itself
        ("48 83 ec 08", None),
        ("", None),
        ("41", None),
    ],
)
def test_real_prologues(code: str, distance: int | None) -> None:
    assert quiet_distance(bytes.fromhex(code)) == distance


@given(st.binary(max_size=16))
def test_any_bytes_give_a_place_inside_or_none(code: bytes) -> None:
    distance = quiet_distance(code)
    assert distance is None or 0 <= distance < len(code)
