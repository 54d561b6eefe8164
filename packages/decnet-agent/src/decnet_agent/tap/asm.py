"""Write BPF programs as lists of instructions, without a compiler on the worker.

Only the instructions that `programs` needs. An instruction is 8 bytes: opcode, destination and source register in one
byte, 16-bit jump or memory offset, 32-bit immediate. A jump names a label; `Assembler.code` puts in the distances.

Source: RFC 9669, BPF Instruction Set Architecture.
"""

from __future__ import annotations

import struct

from decnet_core.errors import LocalProtocolError

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FP = range(11)

_INSTRUCTION = struct.Struct("=BBhi")
_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_PSEUDO_MAP_FD = 1

# Conditions of a jump: 64-bit compare with an immediate, unsigned where there is a choice.
EQ, NE, LE, SIGNED_LT, SIGNED_LE = 0x15, 0x55, 0xB5, 0xC5, 0xD5


class Assembler:
    """One program under construction."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, int, int, int | str, int]] = []
        self._labels: dict[str, int] = {}

    def move(self, to: int, value: int) -> None:
        """Set a register to a constant of 32 bits, sign-extended."""
        self._add(0xB7, to, 0, 0, value)

    def copy(self, to: int, source: int) -> None:
        """Set a register to another's value."""
        self._add(0xBF, to, source, 0, 0)

    def add(self, to: int, value: int) -> None:
        """Add a constant."""
        self._add(0x07, to, 0, 0, value)

    def subtract(self, to: int, source: int) -> None:
        """Subtract another register."""
        self._add(0x1F, to, source, 0, 0)

    def load(self, to: int, base: int, offset: int, size: int = 8) -> None:
        """Read memory that the verifier knows (stack, context, map value)."""
        self._add(0x61 | _SIZES[size], to, base, offset, 0)

    def store(self, base: int, offset: int, source: int, size: int = 8) -> None:
        """Write a register to memory."""
        self._add(0x63 | _SIZES[size], base, source, offset, 0)

    def store_constant(self, base: int, offset: int, value: int, size: int = 4) -> None:
        """Write a constant to memory."""
        self._add(0x62 | _SIZES[size], base, 0, offset, value)

    def add_register(self, to: int, source: int) -> None:
        """Add another register."""
        self._add(0x0F, to, source, 0, 0)

    def shift_left(self, to: int, bits: int) -> None:
        """Shift left."""
        self._add(0x67, to, 0, 0, bits)

    def shift_right(self, to: int, bits: int, *, signed: bool) -> None:
        """Shift right, filling with the sign or with zeros."""
        self._add(0xC7 if signed else 0x77, to, 0, 0, bits)

    def atomic_add(self, base: int, offset: int, source: int) -> None:
        """Add a register to 8 bytes of memory, atomically."""
        self._add(0xDB, base, source, offset, 0)

    def load_map(self, to: int, fd: int) -> None:
        """Point a register at a map."""
        self._add(0x18, to, _PSEUDO_MAP_FD, 0, fd)
        self._add(0x00, 0, 0, 0, 0)

    def call(self, helper: int) -> None:
        """Call a helper of the kernel: arguments in R1 to R5, result in R0."""
        self._add(0x85, 0, 0, 0, helper)

    def jump(self, condition: int, register: int, value: int, label: str) -> None:
        """Jump forward to a label if the comparison holds."""
        self._add(condition, register, 0, label, value)

    def jump_unless_equal(self, left: int, right: int, label: str) -> None:
        """Jump forward if two registers differ."""
        self._add(0x5D, left, right, label, 0)

    def jump_if_equal(self, left: int, right: int, label: str) -> None:
        """Jump forward if two registers are the same."""
        self._add(0x1D, left, right, label, 0)

    def jump_if_greater(self, left: int, right: int, label: str) -> None:
        """Jump forward if a register is more than another, both unsigned."""
        self._add(0x2D, left, right, label, 0)

    def go(self, label: str) -> None:
        """Jump forward."""
        self._add(0x05, 0, 0, label, 0)

    def label(self, name: str) -> None:
        """Name the place of the next instruction."""
        self._labels[name] = len(self._lines)

    def leave(self) -> None:
        """Return 0."""
        self.move(R0, 0)
        self._add(0x95, 0, 0, 0, 0)

    def code(self) -> bytes:
        """Give the program's bytes.

        Raises:
            LocalProtocolError: a jump names a label that is not there.
        """
        out = bytearray()
        for index, (opcode, to, source, offset, immediate) in enumerate(self._lines):
            if isinstance(offset, str):
                if offset not in self._labels:
                    raise LocalProtocolError(f"The BPF program has no label {offset}")
                offset = self._labels[offset] - index - 1  # noqa: PLW2901 -- resolved in place
            out += _INSTRUCTION.pack(opcode, source << 4 | to, offset, immediate)
        return bytes(out)

    def _add(self, opcode: int, to: int, source: int, offset: int | str, immediate: int) -> None:
        self._lines.append((opcode, to, source, offset, immediate))
