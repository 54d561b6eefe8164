"""Choose the instruction to probe so that nothing of it shows in the decky.

A uprobe on an ordinary instruction makes the kernel run a copy of that instruction out of line, from a page that
then stands in the process's own /proc/PID/maps as `[uprobes]`; a return probe needs that page always. Instructions
that the kernel emulates (pushes of a register, jumps) need no page and leave the map as it was. So return probes are
not used at all, and a function whose first instructions hold nothing to emulate is not probed.

Only x86_64 is known here. Source: arch/x86/kernel/uprobes.c, push_setup_xol_ops and branch_setup_xol_ops.
"""

from __future__ import annotations

PROLOGUE_BYTES = 16

_HARMLESS = (b"\x49\x89\xc8", b"\x31\xc9")
"""mov %rcx,%r8 and xor %ecx,%ecx: they may stand before, because we read neither of the two registers."""


def quiet_distance(code: bytes) -> int | None:
    """Tell how far behind a function's beginning its first emulated instruction lies, or None.

    Args:
        code: the function's first bytes.
    """
    at = 0
    while at < len(code):
        if code[at] in range(0x50, 0x58) or code[at] in (0xE9, 0xEB):
            return at
        if code[at] == 0x41 and at + 1 < len(code) and code[at + 1] in range(0x50, 0x58):
            return at
        harmless = next((known for known in _HARMLESS if code.startswith(known, at)), None)
        if harmless is None:
            return None
        at += len(harmless)
    return None
