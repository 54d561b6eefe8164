"""The programs that run in the kernel, and the record that each of them writes.

Why here and not by polling: a process that an attacker starts lives for a millisecond. At the tracepoint
`sched_process_exec` the new program's arguments have just been copied by the kernel to the new stack: they are there,
whole, and nobody can change them in between. Everything that names the process (pids, parent, start times, owner) is
taken in the same moment. Nothing in a decky is changed by it.

    program    where                              record
    forked     tracepoint sched_process_fork      the child; no text
    executed   tracepoint sched_process_exec      file name, standard input's socket; text = arguments, NUL-ended each
    exited     tracepoint sched_process_exit      no text; of the whole process, not of a thread
    prompted   uprobe bash:rl_set_prompt          no text
    entered    uprobe bash:rl_clear_signals       text = the line: what rl_line_buffer points at when readline ends
    pam_user   uprobe libpam:pam_start            number = 2, text = the user's name
    pam_item   uprobe libpam:pam_set_item         number = 2 (user name) or 6 (password), text = the item

Each looks first whether the process is in a decky (by its process-id namespace, one below the host's, so that a
namespace made inside a decky changes nothing) and costs the rest of the host next to nothing. A tracepoint program
asks a map of namespaces; a uprobe program compares the namespace with its attachment's cookie, because images are
shared: the same file is probed once for each decky. A cookie is the namespace in its lower half and, in its upper, the
signed distance from the probed instruction to the variable that the program reads.

Record, native byte order, one ring buffer for all, in the order of time:
    0  u32 kind         4  u32 namespace      8  u64 since boot, ns  16 u32 pid on the host  20 u32 pid in the decky
    24 u32 parent's pid 28 u32 user id        32 u64 process's start, ns since boot          40 u64 parent's start
    48 u8[16] name of the task                64 u32 has a terminal  68 u32 number           72 u32 bytes of text
    76 u32 bytes of text that there were      80 text, or u8[256] file name, u8[48] socket and then text

Socket, of what was standard input when a program began (how a server hands a connection to the process that serves it;
asking /proc for it would be too late for one that ended): all zero where it is none, else
    0  u16 family       2  u8 state           4  u16 own port         6  u16 peer's port, network order
    8  u8[4] peer, 12 u8[4] own (IPv4)        16 u8[16] peer, 32 u8[16] own (IPv6)

A record that finds no room is counted in the map `lost`: the loss becomes an event.

Source: the helpers' numbers and contracts are those of the kernel's include/uapi/linux/bpf.h; registers those of the
System V and AAPCS64 calling conventions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from decnet_agent.tap.asm import EQ, FP, LE, NE, R0, R1, R2, R3, R6, R7, R8, R9, SIGNED_LT, Assembler

HEADER_BYTES = 80
NAME_BYTES = 256
SOCKET_BYTES = 48
SHORT_ARGUMENTS_BYTES = 512
"""Nearly all command lines; a record's room is taken before the text is read, so small ones get small room."""
LONG_ARGUMENTS_BYTES = 16384
"""What is kept of one command line; longer ones carry their real length."""
LINE_BYTES = 4096
"""One typed line: what a terminal's line discipline itself holds."""
ITEM_BYTES = 1024
"""One user name or password; PAM's own limit is 512."""

PAM_USER, PAM_AUTHTOK = 2, 6

_NS_LEVEL = 1  # a decky's namespace is a direct child of the initial one
_UPID_BYTES = 16  # struct upid: an int and a pointer, aligned
_LOOKUP, _TASK, _READ_USER, _READ_KERNEL, _USER_STRING, _KERNEL_STRING = 1, 35, 112, 113, 114, 115
_BOOT_NS, _RESERVE, _SUBMIT, _COOKIE = 125, 131, 132, 174

FIELDS = (
    "task_struct.thread_pid", "task_struct.tgid", "task_struct.pid", "task_struct.group_leader",
    "task_struct.start_boottime", "task_struct.real_parent", "task_struct.cred", "task_struct.comm",
    "task_struct.signal", "task_struct.mm", "signal_struct.tty", "pid.level", "pid.numbers", "upid.nr", "upid.ns",
    "pid_namespace.ns", "ns_common.inum", "cred.uid", "mm_struct.arg_start", "mm_struct.arg_end",
    "linux_binprm.filename", "task_struct.files", "files_struct.fdt", "fdtable.fd", "file.f_inode", "file.private_data",
    "inode.i_mode", "socket.sk", "sock_common.skc_family", "sock_common.skc_state", "sock_common.skc_num",
    "sock_common.skc_dport", "sock_common.skc_daddr", "sock_common.skc_rcv_saddr", "sock_common.skc_v6_daddr",
    "sock_common.skc_v6_rcv_saddr",
)  # fmt: skip
"""The kernel's fields that the programs read; `btf.field_offsets` finds them."""

_SOCKET_MODE = 0xC  # S_IFSOCK without its lower zeros
_SOCKET_FIELDS = (
    ("sock_common.skc_family", 0, 2), ("sock_common.skc_state", 2, 1), ("sock_common.skc_num", 4, 2),
    ("sock_common.skc_dport", 6, 2), ("sock_common.skc_daddr", 8, 4), ("sock_common.skc_rcv_saddr", 12, 4),
    ("sock_common.skc_v6_daddr", 16, 16), ("sock_common.skc_v6_rcv_saddr", 32, 16),
)  # fmt: skip


class Kind(IntEnum):
    """What a record tells."""

    FORKED = 1
    EXECUTED = 2
    EXITED = 3
    PROMPTED = 4
    ENTERED = 5
    PAM_ITEM = 6


@dataclass(frozen=True, slots=True)
class Registers:
    """Where a machine's pt_regs hold what we read, in bytes."""

    second_argument: int
    third_argument: int
    instruction: int


REGISTERS: Mapping[str, Registers] = {
    "x86_64": Registers(second_argument=104, third_argument=96, instruction=128),
    "aarch64": Registers(second_argument=8, third_argument=16, instruction=256),
}


@dataclass(frozen=True, slots=True)
class Maps:
    """File descriptors of the maps that the programs use."""

    ring: int
    deckies: int
    lost: int


def forked(maps: Maps, at: Mapping[str, int]) -> bytes:
    """Tell of a new process (not of a new thread)."""
    code = Program(maps, at)
    code.load(R6, R1, 8)  # the tracepoint's arguments: parent, child
    code.skip_threads()
    code.only_in_deckies()
    code.record(Kind.FORKED, HEADER_BYTES)
    code.submit()
    return code.finish()


def exited(maps: Maps, at: Mapping[str, int]) -> bytes:
    """Tell of the end of a process."""
    code = Program(maps, at)
    code.load(R6, R1, 0)
    code.skip_threads()
    code.only_in_deckies()
    code.record(Kind.EXITED, HEADER_BYTES)
    code.submit()
    return code.finish()


def executed(maps: Maps, at: Mapping[str, int]) -> bytes:
    """Tell of a program that was started, with its arguments as the kernel laid them out."""
    code = Program(maps, at)
    code.copy(R9, R1)
    code.load(R6, R1, 0)  # the tracepoint's arguments: task, old pid, linux_binprm
    code.only_in_deckies()
    code.measure_arguments()
    code.load(R1, FP, -32)
    code.jump(LE, R1, SHORT_ARGUMENTS_BYTES, "short")
    code.execution(LONG_ARGUMENTS_BYTES)
    code.label("short")
    code.execution(SHORT_ARGUMENTS_BYTES)
    return code.finish()


def prompted(maps: Maps, at: Mapping[str, int]) -> bytes:
    """Tell that a shell asks for a line."""
    code = Program(maps, at)
    code.copy(R9, R1)
    code.only_in_attachment()
    code.record(Kind.PROMPTED, HEADER_BYTES)
    code.submit()
    return code.finish()


def entered(maps: Maps, at: Mapping[str, int], registers: Registers) -> bytes:
    """Tell the line that a shell got, or that its user gave up with Ctrl-C; end of input gives an empty text."""
    code = Program(maps, at)
    code.copy(R9, R1)
    code.only_in_attachment()
    code.record(Kind.ENTERED, HEADER_BYTES + LINE_BYTES)
    code.copy(R1, R9)
    code.call(_COOKIE)
    code.shift_right(R0, 32, signed=True)
    code.load(R3, R9, registers.instruction)
    code.add_register(R3, R0)
    code.copy(R1, FP)
    code.add(R1, -8)
    code.move(R2, 8)
    code.call(_READ_USER)
    code.load(R3, FP, -8)
    code.user_string(LINE_BYTES)
    code.submit()
    return code.finish()


def pam_user(maps: Maps, at: Mapping[str, int], registers: Registers) -> bytes:
    """Tell the user whom a program begins to authenticate, where it knows one already."""
    code = Program(maps, at)
    code.copy(R9, R1)
    code.load(R1, R9, registers.second_argument)
    code.jump(EQ, R1, 0, "out")
    code.only_in_attachment()
    code.record(Kind.PAM_ITEM, HEADER_BYTES + ITEM_BYTES)
    code.store_constant(R7, 68, PAM_USER)
    code.load(R3, R9, registers.second_argument)
    code.user_string(ITEM_BYTES)
    code.submit()
    return code.finish()


def pam_item(maps: Maps, at: Mapping[str, int], registers: Registers) -> bytes:
    """Tell a user name or password that PAM was given."""
    code = Program(maps, at)
    code.copy(R9, R1)
    code.load(R1, R9, registers.second_argument, 4)
    code.jump(EQ, R1, PAM_USER, "wanted")
    code.jump(NE, R1, PAM_AUTHTOK, "out")
    code.label("wanted")
    code.load(R1, R9, registers.third_argument)
    code.jump(EQ, R1, 0, "out")  # the call that forgets the item
    code.only_in_attachment()
    code.record(Kind.PAM_ITEM, HEADER_BYTES + ITEM_BYTES)
    code.load(R1, R9, registers.second_argument, 4)
    code.store(R7, 68, R1, 4)
    code.load(R3, R9, registers.third_argument)
    code.user_string(ITEM_BYTES)
    code.submit()
    return code.finish()


class Program(Assembler):
    """Parts of the programs.

    R6 task, R7 record, R8 struct pid, R9 context. The stack's slots:
    -8 a pointer being followed, -16 the namespace, -24 start of the arguments, -32 their length, -40 a map's key or a
    pointer that is kept.
    """

    def __init__(self, maps: Maps, at: Mapping[str, int]) -> None:
        super().__init__()
        self._maps = maps
        self._at = at

    def skip_threads(self) -> None:
        """Leave the program for a thread that is not its process's first."""
        self._read_stack(-8, R6, self._at["task_struct.pid"], 4)
        self._read_stack(-16, R6, self._at["task_struct.tgid"], 4)
        self.load(R1, FP, -8, 4)
        self.load(R2, FP, -16, 4)
        self.jump_unless_equal(R1, R2, "out")

    def only_in_deckies(self) -> None:
        """Leave the program unless the task in R6 is in a decky."""
        self._find_namespace()
        self.load_map(R1, self._maps.deckies)
        self.copy(R2, FP)
        self.add(R2, -16)
        self.call(_LOOKUP)
        self.jump(EQ, R0, 0, "out")

    def only_in_attachment(self) -> None:
        """Find the task; leave the program unless it is in the decky that this probe is for."""
        self.call(_TASK)
        self.copy(R6, R0)
        self._find_namespace()
        self.copy(R1, R9)
        self.call(_COOKIE)
        self.shift_left(R0, 32)
        self.shift_right(R0, 32, signed=False)
        self.load(R1, FP, -16, 4)
        self.jump_unless_equal(R0, R1, "out")

    def record(self, kind: Kind, size_bytes: int) -> None:
        """Take room in the ring and write the header; R7 then is the record."""
        self.load_map(R1, self._maps.ring)
        self.move(R2, size_bytes)
        self.move(R3, 0)
        self.call(_RESERVE)
        self.jump(EQ, R0, 0, "lost")
        self.copy(R7, R0)
        self.store_constant(R7, 0, kind)
        self.load(R1, FP, -16, 4)
        self.store(R7, 4, R1, 4)
        self.call(_BOOT_NS)
        self.store(R7, 8, R0)
        self._read_record(16, R6, self._at["task_struct.tgid"], 4)
        self._read_record(20, R8, self._number() + self._at["upid.nr"], 4)
        self._follow(R6, "task_struct.real_parent")
        self._read_record(24, R1, self._at["task_struct.tgid"], 4)
        self._follow(R6, "task_struct.real_parent")
        self._follow(R1, "task_struct.group_leader")
        self._read_record(40, R1, self._at["task_struct.start_boottime"], 8)
        self._follow(R6, "task_struct.group_leader")
        self._read_record(32, R1, self._at["task_struct.start_boottime"], 8)
        self._follow(R6, "task_struct.cred")
        self._read_record(28, R1, self._at["cred.uid"], 4)
        self._read_record(48, R6, self._at["task_struct.comm"], 16)
        self._follow(R6, "task_struct.signal")
        self._read_stack(-8, R1, self._at["signal_struct.tty"], 8)
        self.store_constant(R7, 64, 0, 8)
        self.store_constant(R7, 72, 0, 8)
        self.load(R1, FP, -8)
        # Labels are per program and a program may hold this part twice: skip one instruction by its own name.
        over = f"no terminal {len(self._lines)}"
        self.jump(EQ, R1, 0, over)
        self.store_constant(R7, 64, 1)
        self.label(over)

    def measure_arguments(self) -> None:
        """Find where the arguments begin and how long they are."""
        self._follow(R6, "task_struct.mm")
        self._read_stack(-24, R1, self._at["mm_struct.arg_start"], 8)
        self._follow(R6, "task_struct.mm")
        self._read_stack(-32, R1, self._at["mm_struct.arg_end"], 8)
        self.load(R1, FP, -32)
        self.load(R2, FP, -24)
        self.subtract(R1, R2)
        self.store(FP, -32, R1)

    def execution(self, room_bytes: int) -> None:
        """Write the rest of `executed`, once for each size of room."""
        text = HEADER_BYTES + NAME_BYTES + SOCKET_BYTES
        self.record(Kind.EXECUTED, text + room_bytes)
        self.load(R1, FP, -32)
        self.store(R7, 76, R1, 4)
        self.store_constant(R7, HEADER_BYTES, 0, 8)
        self.load(R1, R9, 16)
        self.add(R1, self._at["linux_binprm.filename"])
        self._read_from_r1(FP, -8, 8)
        self.copy(R1, R7)
        self.add(R1, HEADER_BYTES)
        self.move(R2, NAME_BYTES)
        self.load(R3, FP, -8)
        self.call(_KERNEL_STRING)
        self.standard_input(HEADER_BYTES + NAME_BYTES, f"no socket {room_bytes}")
        self.load(R2, FP, -32)
        fits, unread = f"fits {room_bytes}", f"unread {room_bytes}"
        self.jump(LE, R2, room_bytes, fits)
        self.move(R2, room_bytes)
        self.label(fits)
        self.store(R7, 72, R2, 4)
        self.copy(R1, R7)
        self.add(R1, text)
        self.load(R3, FP, -24)
        self.call(_READ_USER)
        self.jump(EQ, R0, 0, unread)
        self.store_constant(R7, 72, 0)
        self.label(unread)
        self.submit()

    def standard_input(self, place: int, otherwise: str) -> None:
        """Write the socket that is the task's standard input, or zeros; what cannot be followed reads as zeros too."""
        for at in range(0, SOCKET_BYTES, 8):
            self.store_constant(R7, place + at, 0, 8)
        self._follow(R6, "task_struct.files")
        for field in ("files_struct.fdt", "fdtable.fd"):
            self._follow(R1, field)
        self._read_from_r1(FP, -8, 8)  # the first of the array
        self.load(R1, FP, -8)
        self.store(FP, -40, R1)
        self._follow(R1, "file.f_inode")
        self.store_constant(FP, -8, 0, 8)
        self.add(R1, self._at["inode.i_mode"])
        self._read_from_r1(FP, -8, 2)
        self.load(R1, FP, -8)
        self.shift_right(R1, 12, signed=False)
        self.jump(NE, R1, _SOCKET_MODE, otherwise)
        self.load(R1, FP, -40)
        self._follow(R1, "file.private_data")
        self._follow(R1, "socket.sk")
        self.store(FP, -40, R1)
        for field, at, size_bytes in _SOCKET_FIELDS:
            self.load(R1, FP, -40)
            self.add(R1, self._at[field])
            self._read_from_r1(R7, place + at, size_bytes)
        self.label(otherwise)

    def user_string(self, room_bytes: int) -> None:
        """Read the string that R3 points at into the record's text."""
        self.copy(R1, R7)
        self.add(R1, HEADER_BYTES)
        self.move(R2, room_bytes)
        self.call(_USER_STRING)
        self.jump(SIGNED_LT, R0, 0, "unreadable")
        self.store(R7, 72, R0, 4)
        self.store(R7, 76, R0, 4)
        self.label("unreadable")

    def submit(self) -> None:
        """Hand the record over, and leave the program."""
        self.copy(R1, R7)
        self.move(R2, 0)
        self.call(_SUBMIT)
        self.leave()

    def finish(self) -> bytes:
        """Write the program's common ends, and give its bytes."""
        self.label("lost")
        self.store_constant(FP, -40, 0)
        self.load_map(R1, self._maps.lost)
        self.copy(R2, FP)
        self.add(R2, -40)
        self.call(_LOOKUP)
        self.jump(EQ, R0, 0, "out")
        self.move(R1, 1)
        self.atomic_add(R0, 0, R1)
        self.label("out")
        self.leave()
        return self.code()

    def _find_namespace(self) -> None:
        """Leave struct pid in R8 and the decky-level namespace's number at -16; leave the program on the host's own."""
        self._follow(R6, "task_struct.thread_pid")
        self.copy(R8, R1)
        self._read_stack(-16, R8, self._at["pid.level"], 4)
        self.load(R1, FP, -16, 4)
        self.jump(EQ, R1, 0, "out")
        self._read_stack(-8, R8, self._number() + self._at["upid.ns"], 8)
        self.load(R1, FP, -8)
        self.add(R1, self._at["pid_namespace.ns"] + self._at["ns_common.inum"])
        self._read_from_r1(FP, -16, 4)

    def _number(self) -> int:
        return self._at["pid.numbers"] + _NS_LEVEL * _UPID_BYTES

    def _follow(self, base: int, field: str) -> None:
        """Read the pointer that a structure holds into R1."""
        self._read_stack(-8, base, self._at[field], 8)
        self.load(R1, FP, -8)

    def _read_stack(self, slot: int, base: int, offset: int, size_bytes: int) -> None:
        self.copy(R1, base)
        self.add(R1, offset)
        self._read_from_r1(FP, slot, size_bytes)

    def _read_record(self, place: int, base: int, offset: int, size_bytes: int) -> None:
        self.copy(R1, base)
        self.add(R1, offset)
        self._read_from_r1(R7, place, size_bytes)

    def _read_from_r1(self, to_base: int, to_offset: int, size_bytes: int) -> None:
        """Copy kernel memory at R1; an address that cannot be read gives zeros."""
        self.copy(R3, R1)
        self.copy(R1, to_base)
        self.add(R1, to_offset)
        self.move(R2, size_bytes)
        self.call(_READ_KERNEL)
