"""Programs are whole instructions whose jumps land inside the program."""

from __future__ import annotations

import struct

import pytest

from decnet_agent.tap import programs
from decnet_agent.tap.asm import EQ, R0, Assembler
from decnet_core.errors import LocalProtocolError

MAPS = programs.Maps(ring=3, deckies=4, lost=5)
AT = dict.fromkeys(programs.FIELDS, 64)
REGISTERS = programs.REGISTERS["x86_64"]

ALL = {
    "forked": programs.forked(MAPS, AT),
    "executed": programs.executed(MAPS, AT),
    "exited": programs.exited(MAPS, AT),
    "prompted": programs.prompted(MAPS, AT),
    "entered": programs.entered(MAPS, AT, REGISTERS),
    "pam_user": programs.pam_user(MAPS, AT, REGISTERS),
    "pam_item": programs.pam_item(MAPS, AT, REGISTERS),
}


@pytest.mark.parametrize("name", ALL)
def test_jumps_go_forward_and_land_inside(name: str) -> None:
    instructions = list(struct.iter_unpack("=BBhi", ALL[name]))
    for index, (opcode, _, offset, _) in enumerate(instructions):
        if opcode & 0x07 == 0x05 and opcode not in (0x85, 0x95):
            assert offset >= 0
            assert index + 1 + offset < len(instructions)
    assert instructions[-1][0] == 0x95


def test_a_jump_to_nowhere_is_our_bug() -> None:
    code = Assembler()
    code.jump(EQ, R0, 0, "nowhere")
    with pytest.raises(LocalProtocolError):
        code.code()
