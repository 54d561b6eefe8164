"""Load programs into the kernel and attach them: the bpf(2) and perf_event_open(2) room.

Everything is held by file descriptors and by nothing else: when the last of them is closed (ours, or those that our
supervisor holds for us, see `holdings`) the kernel takes programs, probes and maps away. There is no tracing instance
to clean up, no name to collide, nothing for an attacker to find under /sys.

Source: include/uapi/linux/bpf.h and linux/perf_event.h for the layouts (the first fields are enough; the kernel takes
shorter attributes).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path

from decnet_core.errors import LocalProtocolError, Unavailable

_SYSCALLS = {"x86_64": (321, 298), "aarch64": (280, 241)}  # bpf, perf_event_open
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD, _RAW_TRACEPOINT_OPEN, _LINK_CREATE = (
    0,
    1,
    2,
    3,
    5,
    17,
    28,
)
_HASH, _ARRAY, _LRU_HASH, _RINGBUF = 1, 2, 9, 27
_KPROBE, _RAW_TRACEPOINT, _TRACING = 2, 17, 26
_TRACE_RAW_TP = 23
_ATTACH_PERF_EVENT = 41
_PERF_EVENT_ENABLE = 0x2400
_PERF_FLAG_CLOEXEC = 8
_LOG_BYTES = 1 << 20
_UPROBE_TYPE = Path("/sys/bus/event_source/devices/uprobe/type")
_ADVICE = "Run the tap as root on Linux 5.15 or newer; `decnet-agent doctor` says what this kernel lacks."

# The helpers that read memory are for GPL-compatible programs; ours are MIT and may be used under the GPL.
_LICENCE = b"Dual MIT/GPL\0"

_libc = ctypes.CDLL(None, use_errno=True)


def machine() -> str:
    """Tell the machine's name, one that this module knows.

    Raises:
        Unavailable: another architecture.
    """
    name = platform.machine()
    if name not in _SYSCALLS:
        raise Unavailable(f"The tap does not know the architecture {name}", "Run it on x86_64 or aarch64.")
    return name


def create_ring(size_bytes: int) -> int:
    """Make a ring buffer; the size is a power of two of whole pages. Returns a file descriptor, as all here do."""
    return _bpf(_MAP_CREATE, struct.pack("=IIIII", _RINGBUF, 0, 0, size_bytes, 0), "make a ring buffer")


def create_set(entries: int) -> int:
    """Make a set of 32-bit numbers."""
    return _bpf(_MAP_CREATE, struct.pack("=IIIII", _HASH, 4, 4, entries, 0), "make a map")


def create_table(key_bytes: int, value_bytes: int, entries: int) -> int:
    """Make a table for programs alone; when it is full, what was not used for the longest time goes."""
    return _bpf(_MAP_CREATE, struct.pack("=IIIII", _LRU_HASH, key_bytes, value_bytes, entries, 0), "make a map")


def create_counter() -> int:
    """Make one 64-bit counter."""
    return _bpf(_MAP_CREATE, struct.pack("=IIIII", _ARRAY, 4, 8, 1, 0), "make a map")


def set_add(fd: int, number: int) -> None:
    """Put a number into a set."""
    key, value = ctypes.create_string_buffer(struct.pack("=I", number), 4), ctypes.create_string_buffer(4)
    _bpf(_MAP_UPDATE, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(key), ctypes.addressof(value), 0), "change a map")


def set_remove(fd: int, number: int) -> None:
    """Take a number out of a set; harmless when it is not there."""
    key = ctypes.create_string_buffer(struct.pack("=I", number), 4)
    attributes = struct.pack("=IIQQQ", fd, 0, ctypes.addressof(key), 0, 0)
    _syscall(_SYSCALLS[machine()][0], _MAP_DELETE, attributes)


def counter_value(fd: int) -> int:
    """Read a counter."""
    key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(8)
    _bpf(_MAP_LOOKUP, struct.pack("=IIQQQ", fd, 0, ctypes.addressof(key), ctypes.addressof(value), 0), "read a map")
    return int(struct.unpack("=Q", value.raw)[0])


def attach_tracepoint(name: str, code: bytes) -> int:
    """Load a program and run it at a tracepoint until the returned descriptor, which holds both, is closed.

    Raises:
        Unavailable: the kernel does not allow it or has no such tracepoint.
        LocalProtocolError: the kernel's verifier refused our program.
    """
    program = load_tracepoint_program(code)
    text = ctypes.create_string_buffer(name.encode())
    try:
        return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QIIQ", ctypes.addressof(text), program, 0, 0), f"watch {name}")
    finally:
        os.close(program)


def attach_typed_tracepoint(type_id: int, code: bytes) -> int:
    """Load a program that may read what a tracepoint's arguments point at, and run it there, as `attach_tracepoint`.

    Args:
        type_id: of the tracepoint's `btf_trace_…`, see `btf.tracepoint_ids`.
        code: of the program.
    """
    program = _load(_TRACING, code, attach_type=_TRACE_RAW_TP, type_id=type_id)
    try:
        return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QIIQ", 0, program, 0, 0), "watch a tracepoint")
    finally:
        os.close(program)


def load_tracepoint_program(code: bytes) -> int:
    """Load a program for a raw tracepoint."""
    return _load(_RAW_TRACEPOINT, code)


def load_uprobe_program(code: bytes) -> int:
    """Load a program for uprobes."""
    return _load(_KPROBE, code)


def attach_uprobe(program: int, path: str, offset: int, *, cookie: int) -> int:
    """Run a loaded program whenever any process executes this place of a file, until the descriptor is closed.

    Args:
        program: descriptor of the program.
        path: the file; the probe sticks to its inode.
        offset: in the file, of an instruction.
        cookie: 64-bit number that the program can ask for.

    Raises:
        Unavailable: the kernel refused.
    """
    try:
        kind = int(_UPROBE_TYPE.read_text())
    except (OSError, ValueError) as cause:
        raise Unavailable("The kernel has no uprobes", _ADVICE) from cause
    name = ctypes.create_string_buffer(os.fsencode(path))
    disabled = 1
    attributes = struct.pack("=IIQQQQQIIQQ", kind, 72, 0, 0, 0, 0, disabled, 0, 0, ctypes.addressof(name), offset)
    everyone, first_cpu, no_group = -1, 0, -1  # a uprobe fires on every processor, whichever the event names
    event = _syscall(
        _SYSCALLS[machine()][1], attributes, everyone, first_cpu, no_group, _PERF_FLAG_CLOEXEC, attributes_first=True
    )
    if event < 0:
        raise Unavailable(f"Cannot set a uprobe: {os.strerror(ctypes.get_errno())}", _ADVICE)
    try:
        link = _bpf(
            _LINK_CREATE, struct.pack("=IIIIQ", program, event, _ATTACH_PERF_EVENT, 0, cookie), "attach to a uprobe"
        )
        _libc.ioctl(event, _PERF_EVENT_ENABLE, 0)
        return link
    finally:
        os.close(event)  # the link holds it, and the program


def _load(kind: int, code: bytes, *, attach_type: int = 0, type_id: int = 0) -> int:
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(_LICENCE)

    def attributes(level: int, log: int, log_bytes: int) -> bytes:
        return struct.pack(
            "=IIQQIIQ28xI36xI",
            kind,
            len(code) // 8,
            ctypes.addressof(instructions),
            ctypes.addressof(licence),
            level,
            log_bytes,
            log,
            attach_type,
            type_id,
        )

    fd = _syscall(_SYSCALLS[machine()][0], _PROG_LOAD, attributes(0, 0, 0))
    if fd >= 0:
        return fd
    error = ctypes.get_errno()
    text = ctypes.create_string_buffer(_LOG_BYTES)
    fd = _syscall(_SYSCALLS[machine()][0], _PROG_LOAD, attributes(1, ctypes.addressof(text), _LOG_BYTES))
    if fd >= 0:
        return fd
    reasons = text.value.decode("latin-1").strip().splitlines()
    if reasons:
        raise LocalProtocolError(f"The kernel's verifier refused a program: {' / '.join(reasons[-4:])}")
    raise Unavailable(f"Cannot load a BPF program: {os.strerror(error)}", _ADVICE)


def _bpf(command: int, attributes: bytes, doing: str) -> int:
    result = _syscall(_SYSCALLS[machine()][0], command, attributes)
    if result < 0:
        raise Unavailable(f"Cannot {doing}: {os.strerror(ctypes.get_errno())}", _ADVICE)
    return result


def _syscall(number: int, *arguments: int | bytes, attributes_first: bool = False) -> int:
    """Call the kernel; bytes go as a pointer, for bpf(2) followed by their length."""
    values: list[ctypes.c_long | ctypes.c_void_p] = []
    kept: list[ctypes.Array[ctypes.c_char]] = []
    for argument in arguments:
        if isinstance(argument, bytes):
            kept.append(ctypes.create_string_buffer(argument, len(argument)))
            values.append(ctypes.c_void_p(ctypes.addressof(kept[-1])))
            if not attributes_first:
                values.append(ctypes.c_long(len(argument)))
        else:
            values.append(ctypes.c_long(argument))
    return int(_libc.syscall(ctypes.c_long(number), *values))
