"""Open files of a decky without leaving the decky: its symbolic links are an attacker's.

Every path is resolved by the kernel inside the container's root (openat2 with RESOLVE_IN_ROOT), so an absolute link
or `..` leads to the decky's own file and never to the host's. Opening never blocks (a FIFO) and never follows into
/proc's magic links.

Source: openat2(2).
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct

from decnet_core.errors import NotFound

_OPENAT2 = 437  # the same on every architecture
_NO_MAGICLINKS, _IN_ROOT = 0x02, 0x10

_libc = ctypes.CDLL(None, use_errno=True)


def open_regular(pid1: int, path: str) -> int:
    """Open a regular file of the decky for reading; the caller closes the descriptor.

    Raises:
        NotFound: there is no such regular file, or the decky is gone.
    """
    fd = _open(pid1, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotFound(f"{path} is no regular file in the decky", "Look at what was done to the decky.")
    return fd


def open_directory(pid1: int, path: str) -> int:
    """Open a directory of the decky; the caller closes the descriptor.

    Raises:
        NotFound: there is no such directory, or the decky is gone.
    """
    return _open(pid1, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC)


def _open(pid1: int, path: str, flags: int) -> int:
    try:
        root = os.open(f"/proc/{pid1}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as cause:
        raise NotFound("The decky's first process is gone", "It is being stopped or restarted.") from cause
    try:
        name = ctypes.create_string_buffer(os.fsencode(path))
        how = struct.pack("=QQQ", flags, 0, _IN_ROOT | _NO_MAGICLINKS)
        fd = int(_libc.syscall(_OPENAT2, root, name, how, ctypes.c_size_t(len(how))))
    finally:
        os.close(root)
    if fd < 0:
        raise NotFound(f"Cannot open {path} in the decky: {os.strerror(ctypes.get_errno())}", "")
    return fd
