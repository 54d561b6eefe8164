"""The program that watches terminals: what their users saw and what they typed, as the machine itself handed it over.

A login with a terminal is a pair of ends: programs have the one, and the server (sshd, telnetd) holds the other, the
master. What the server reads there is what it sends to its client, after the line discipline, echo included; what it
writes there is what came from the client. So the ends of four system calls say all, for every server alike:

    read(2)  of a master               SHOWN    what its server has just got, and will send
    read(2)  that found the end (EIO)  ENDED    nobody holds the other end any more
    write(2) to a master               TYPED    what its server has just handed on
    ioctl(2) TIOCSPTLCK                OPENED   a new pair is made ready
    ioctl(2) TIOCSWINSZ                RESIZED  of a master

At the end of a call it is known what was really read or written, and what the kernel threw away (output that Ctrl-C
discards) is not told. The data are still in the process's own buffer. Nothing shows in the decky: there is no probe in
any of its programs. The price is the tracepoint `sys_exit`, through which all system calls of the host go while it is
watched (docs/adr/0022): what is none of the four leaves the program after six instructions.

Record, native byte order, in a ring of its own, so that no flood on a screen takes the room of commands and passwords:
    0  u32 kind         4  u32 namespace      8  u64 since boot, ns  16 u64 which terminal (its address)
    24 u32 process      28 u32 its number as in /dev/pts              32 u64 process's start, ns since boot
    40 u16 rows, u16 columns                  44 u32 bytes of data    48 u64 bytes missing up to here in this direction
    56 data

One terminal's flood does not take the others' room either: between two moments at which the ring is emptied, each
direction of each terminal may take a quarter of what was free. However many flood, some room stays free for one more.
What goes beyond is counted (`missing`), never waited for. Counters are in the map `terminals`, by the terminal's
address, with the lowest bit set for what is typed:
    0 u64 where the ring's reader was when counting began, 8 u64 bytes taken since, 16 u64 bytes missing altogether

Source: as `programs`; tty_ioctl(4) for the numbers; include/uapi/asm-generic/errno-base.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from decnet_agent.tap.asm import EQ, FP, LE, NE, R0, R1, R2, R3, R4, R6, R7, R9, SIGNED_LE, SIGNED_LT
from decnet_agent.tap.programs import Maps, Program

HEADER_BYTES = 56
SMALL_BYTES, MIDDLE_BYTES, LARGE_BYTES = 128, 1024, 4096
"""Room for data is taken before they are read, so a key's echo gets small room."""
MAX_PIECES = 16
"""Records of one call: 64 KiB, more than a server's buffer; what is longer has its rest counted as missing."""
KEY_BYTES, COUNTERS_BYTES = 8, 24

TRACEPOINT = "sys_exit"
FIELDS = (
    "task_struct.thread_pid", "task_struct.tgid", "task_struct.group_leader", "task_struct.start_boottime",
    "task_struct.files", "files_struct.fdt", "fdtable.fd", "fdtable.max_fds", "file.f_inode", "file.private_data",
    "inode.i_rdev", "tty_file_private.tty", "tty_struct.index", "tty_struct.winsize", "tty_struct.link",
    "pid.level", "pid.numbers", "upid.ns", "pid_namespace.ns", "ns_common.inum",
    "pt_regs.orig_ax", "pt_regs.di", "pt_regs.si",
)  # fmt: skip
"""The kernel's fields that the program reads; the last three are those of x86_64."""

_READ, _WRITE, _IOCTL = 0, 1, 16  # system calls of x86_64
_SET_LOCK, _SET_SIZE = 0x40045431, 0x5414
_EIO = 5
_MASTER_DEVICE = 5 << 20 | 2  # every master is opened by /dev/ptmx, whichever instance's
_LOOKUP, _UPDATE, _TASK, _READ_USER, _QUERY = 1, 2, 35, 112, 134
_BOOT_NS, _RESERVE, _SUBMIT = 125, 131, 132
_UNREAD, _SIZE, _READER = 0, 1, 2  # what bpf_ringbuf_query tells
_POSITION, _TAKEN, _MISSING = 0, 8, 16  # of the counters


class Kind(IntEnum):
    """What a record tells."""

    SHOWN = 1
    TYPED = 2
    OPENED = 3
    RESIZED = 4
    ENDED = 5


@dataclass(frozen=True, slots=True)
class TerminalMaps:
    """File descriptors of the maps that the program uses; `deckies` and `lost` are those of `programs`."""

    ring: int
    deckies: int
    lost: int
    terminals: int


def watched(maps: TerminalMaps, at: Mapping[str, int]) -> bytes:
    """Tell what processes in deckies do with masters.

    Args:
        maps: of the program.
        at: offsets of `FIELDS`.
    """
    code = _Terminal(maps, at)
    code.pick_call()
    code.call(_TASK)
    code.copy(R6, R0)
    code.only_in_deckies()
    code.find_master()
    code.load(R1, FP, code.KIND)
    code.jump(LE, R1, Kind.TYPED, "data")
    code.begin(0, "lost")
    code.submit()
    code.label("data")
    code.find_counters()
    code.take_share()
    for number in range(MAX_PIECES):
        code.load(R1, FP, code.LEFT)
        code.jump(LE, R1, MIDDLE_BYTES, "rest")
        code.piece(LARGE_BYTES, number)
    code.load(R1, FP, code.LEFT)
    code.jump(LE, R1, MIDDLE_BYTES, "rest")
    code.go("missing")
    code.label("rest")
    code.jump(EQ, R1, 0, "out")
    code.jump(LE, R1, SMALL_BYTES, "small")
    code.piece(MIDDLE_BYTES, MAX_PIECES)
    code.go("out")
    code.label("small")
    code.piece(SMALL_BYTES, MAX_PIECES + 1)
    code.go("out")
    code.label("missing")
    code.count_missing()
    code.go("out")
    return code.finish()


class _Terminal(Program):
    """Parts of the program.

    R6 task, R7 record, R8 struct pid, R9 the call's registers. The stack's slots beyond those of `Program`:
    """

    ADDRESS = -24
    """Where the data are in the process."""
    LEFT = -32
    """How many of them are not told yet."""
    KEY = -40
    """The terminal's address, with the direction's bit."""
    COUNTERS = -48
    """Where the terminal's counters are."""
    TERMINAL = -56
    """The terminal's address."""
    PIECE = -64
    """How long this record's data are."""
    KIND = -72
    """What is told."""
    FRESH = -96
    """Counters of a terminal that is met for the first time: three numbers."""

    def __init__(self, maps: TerminalMaps, at: Mapping[str, int]) -> None:
        super().__init__(Maps(maps.ring, maps.deckies, maps.lost), at)
        self._terminals = maps.terminals

    def pick_call(self) -> None:
        """Find out which call has ended and how; leave the program at all but those of interest."""
        self.load(R9, R1, 0)
        self.load(R1, R1, 8)
        self.load(R2, R9, self._at["pt_regs.orig_ax"])
        self.jump(EQ, R2, _READ, "read")
        self.jump(EQ, R2, _WRITE, "write")
        self.jump(EQ, R2, _IOCTL, "ioctl")
        self.leave()
        self.label("read")
        self.store_constant(FP, self.KIND, Kind.ENDED, 8)
        self.jump(EQ, R1, -_EIO, "picked")
        self.store_constant(FP, self.KIND, Kind.SHOWN, 8)
        self.go("transferred")
        self.label("write")
        self.store_constant(FP, self.KIND, Kind.TYPED, 8)
        self.label("transferred")
        self.jump(SIGNED_LE, R1, 0, "out")
        self.store(FP, self.LEFT, R1)
        self.load(R1, R9, self._at["pt_regs.si"])
        self.store(FP, self.ADDRESS, R1)
        self.go("picked")
        self.label("ioctl")
        self.jump(SIGNED_LT, R1, 0, "out")
        self.load(R1, R9, self._at["pt_regs.si"], 4)
        self.store_constant(FP, self.KIND, Kind.OPENED, 8)
        self.jump(EQ, R1, _SET_LOCK, "picked")
        self.store_constant(FP, self.KIND, Kind.RESIZED, 8)
        self.jump(NE, R1, _SET_SIZE, "out")
        self.label("picked")

    def find_master(self) -> None:
        """Follow the call's descriptor to the terminal; leave the program unless it is a master."""
        self._follow(R6, "task_struct.files")
        self._follow(R1, "files_struct.fdt")
        self.store(FP, self.KEY, R1)
        self.store_constant(FP, -8, 0, 8)
        self.add(R1, self._at["fdtable.max_fds"])
        self._read_from_r1(FP, -8, 4)
        self.load(R2, FP, -8)
        self.load(R1, R9, self._at["pt_regs.di"], 4)
        self.add(R1, 1)
        self.jump_if_greater(R1, R2, "out")
        self.load(R1, FP, self.KEY)
        self._follow(R1, "fdtable.fd")
        self.load(R2, R9, self._at["pt_regs.di"], 4)
        self.shift_left(R2, 3)
        self.add_register(R1, R2)
        self._read_from_r1(FP, self.KEY, 8)
        self.load(R1, FP, self.KEY)
        self._follow(R1, "file.f_inode")
        self.store_constant(FP, -8, 0, 8)
        self.add(R1, self._at["inode.i_rdev"])
        self._read_from_r1(FP, -8, 4)
        self.load(R1, FP, -8)
        self.jump(NE, R1, _MASTER_DEVICE, "out")
        self.load(R1, FP, self.KEY)
        self._follow(R1, "file.private_data")
        self._follow(R1, "tty_file_private.tty")
        self.jump(EQ, R1, 0, "out")
        self.store(FP, self.TERMINAL, R1)

    def find_counters(self) -> None:
        """Find the counters of this direction, or make them."""
        self.load(R1, FP, self.TERMINAL)
        self.load(R2, FP, self.KIND)
        self.add_register(R1, R2)
        self.add(R1, -Kind.SHOWN)
        self.store(FP, self.KEY, R1)
        self._look_up()
        self.jump(NE, R0, 0, "counters")
        for slot in range(0, COUNTERS_BYTES, 8):
            self.store_constant(FP, self.FRESH + slot, 0, 8)
        self.load_map(R1, self._terminals)
        self.copy(R2, FP)
        self.add(R2, self.KEY)
        self.copy(R3, FP)
        self.add(R3, self.FRESH)
        self.move(R4, 0)
        self.call(_UPDATE)
        self._look_up()
        self.jump(EQ, R0, 0, "lost")
        self.label("counters")
        self.store(FP, self.COUNTERS, R0)

    def take_share(self) -> None:
        """Take these data's part of the terminal's share, or count them as missing."""
        self._query(_READER)
        self.load(R1, FP, self.COUNTERS)
        self.load(R2, R1, _POSITION)
        self.jump_if_equal(R0, R2, "same round")
        self.store(R1, _POSITION, R0)
        self.store_constant(R1, _TAKEN, 0, 8)
        self.label("same round")
        self._query(_UNREAD)
        self.store(FP, -8, R0)
        self._query(_SIZE)
        self.load(R1, FP, -8)
        self.subtract(R0, R1)
        self.shift_right(R0, 2, signed=False)
        self.load(R1, FP, self.COUNTERS)
        self.load(R2, R1, _TAKEN)
        self.load(R3, FP, self.LEFT)
        self.add_register(R2, R3)
        self.add(R2, HEADER_BYTES + SMALL_BYTES)
        self.jump_if_greater(R2, R0, "missing")
        self.store(R1, _TAKEN, R2)

    def piece(self, room_bytes: int, number: int) -> None:
        """Tell as many of the data as fit into one record."""
        fits, told = f"fits {number}", f"told {number}"
        self.load(R1, FP, self.LEFT)
        self.jump(LE, R1, room_bytes, fits)
        self.move(R1, room_bytes)
        self.label(fits)
        self.store(FP, self.PIECE, R1)
        self.begin(room_bytes, "missing")
        self.load(R1, FP, self.COUNTERS)
        self.load(R1, R1, _MISSING)
        self.store(R7, 48, R1)
        self.load(R2, FP, self.PIECE)
        self.store(R7, 44, R2, 4)
        self.copy(R1, R7)
        self.add(R1, HEADER_BYTES)
        self.load(R3, FP, self.ADDRESS)
        self.call(_READ_USER)
        self.jump(EQ, R0, 0, told)
        self.store_constant(R7, 44, 0)
        self.load(R1, FP, self.COUNTERS)
        self.load(R2, FP, self.PIECE)
        self.atomic_add(R1, _MISSING, R2)
        self.label(told)
        self.copy(R1, R7)
        self.move(R2, 0)
        self.call(_SUBMIT)
        self.load(R2, FP, self.PIECE)
        self.load(R1, FP, self.ADDRESS)
        self.add_register(R1, R2)
        self.store(FP, self.ADDRESS, R1)
        self.load(R1, FP, self.LEFT)
        self.subtract(R1, R2)
        self.store(FP, self.LEFT, R1)

    def count_missing(self) -> None:
        """Count what is not told."""
        self.load(R1, FP, self.COUNTERS)
        self.load(R2, FP, self.LEFT)
        self.atomic_add(R1, _MISSING, R2)

    def begin(self, room_bytes: int, otherwise: str) -> None:
        """Take room in the ring and write the header; R7 then is the record."""
        self.load_map(R1, self._maps.ring)
        self.move(R2, HEADER_BYTES + room_bytes)
        self.move(R3, 0)
        self.call(_RESERVE)
        self.jump(EQ, R0, 0, otherwise)
        self.copy(R7, R0)
        self.load(R1, FP, self.KIND)
        self.store(R7, 0, R1, 4)
        self.load(R1, FP, -16, 4)
        self.store(R7, 4, R1, 4)
        self.call(_BOOT_NS)
        self.store(R7, 8, R0)
        self.load(R1, FP, self.TERMINAL)
        self.store(R7, 16, R1)
        self._read_record(24, R6, self._at["task_struct.tgid"], 4)
        self.load(R1, FP, self.TERMINAL)
        self._read_record(28, R1, self._at["tty_struct.index"], 4)
        self._follow(R6, "task_struct.group_leader")
        self._read_record(32, R1, self._at["task_struct.start_boottime"], 8)
        self.load(R1, FP, self.TERMINAL)
        self._follow(R1, "tty_struct.link")  # the pair's size is kept at its other end
        self._read_record(40, R1, self._at["tty_struct.winsize"], 4)
        self.store_constant(R7, 44, 0)
        self.store_constant(R7, 48, 0, 8)

    def _look_up(self) -> None:
        self.load_map(R1, self._terminals)
        self.copy(R2, FP)
        self.add(R2, self.KEY)
        self.call(_LOOKUP)

    def _query(self, what: int) -> None:
        self.load_map(R1, self._maps.ring)
        self.move(R2, what)
        self.call(_QUERY)
