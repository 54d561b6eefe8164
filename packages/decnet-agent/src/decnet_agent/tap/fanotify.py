"""Hear from the kernel that a file in a decky was written and closed, with a descriptor of that very file.

A mark sits on a whole filesystem: a decky's overlay and each of its tmpfs mounts are filesystems of their own, so no
other container's or host's file is ever heard of. Filesystems that a decky shares with its host (the engine's
/etc/hosts and the like) are never marked.

The descriptor opens the file that was written, whatever its name is by now, and opening it makes no further event.

Source: fanotify(7), fanotify_init(2), fanotify_mark(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import termios
from collections.abc import Iterator
from dataclasses import dataclass

from decnet_core.errors import NotFound, Unavailable

MAX_MOUNTS = 32
"""Marked filesystems of one decky; Docker gives a container about four tmpfs mounts."""

_CLASS_NOTIF, _CLOEXEC, _NONBLOCK = 0x0, 0x1, 0x2
_MARK_ADD, _MARK_FILESYSTEM = 0x1, 0x100
_CLOSE_WRITE, _QUEUE_OVERFLOW = 0x8, 0x4000
_METADATA = struct.Struct("=IBBHQii")
READ_EVENTS = 170
"""Events of one batch: what fits into a page."""
_ADVICE = "Run the tap as root (CAP_SYS_ADMIN) on a kernel with fanotify."

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    """A filesystem of a decky that is its own: where it is mounted and its device number."""

    path: str
    device: int


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was closed after writing. The receiver closes `fd`; -1 stands for one that is `lost`, and why."""

    fd: int
    pid: int
    lost: str = ""


class Fanotify:
    """One group of marks; `fd` becomes readable when there is something.

    Args:
        fd: of a group that an earlier tap made, with its marks and what waits in it.

    Raises:
        Unavailable: the kernel or its policy forbids it.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is not None:
            self.fd = fd
            return
        flags = _CLASS_NOTIF | _CLOEXEC | _NONBLOCK
        self.fd = int(_libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        if self.fd < 0:
            raise Unavailable(f"Cannot use fanotify: {os.strerror(ctypes.get_errno())}", _ADVICE)

    def watch(self, directory_fd: int) -> None:
        """Mark the filesystem of an open directory.

        Raises:
            Unavailable: the kernel refused.
        """
        result = _libc.fanotify_mark(
            self.fd, ctypes.c_uint(_MARK_ADD | _MARK_FILESYSTEM), ctypes.c_uint64(_CLOSE_WRITE), directory_fd, None
        )
        if result < 0:
            raise Unavailable(f"Cannot watch a filesystem: {os.strerror(ctypes.get_errno())}", _ADVICE)

    def read(self, limit: int = READ_EVENTS) -> Iterator[Written]:
        """Give what is there now, one batch; nothing when there is nothing."""
        try:
            data = os.read(self.fd, limit * _METADATA.size)
        except BlockingIOError:
            return
        except OSError:  # EMFILE, ENXIO and the like: the kernel consumed the event and could not open its file
            yield Written(-1, 0, "file-unopenable")
            return
        at = 0
        while at + _METADATA.size <= len(data):
            length, _, _, _, mask, fd, pid = _METADATA.unpack_from(data, at)
            at += max(length, _METADATA.size)
            if mask & _QUEUE_OVERFLOW:
                yield Written(-1, pid, "file-queue-overflow")
            elif fd < 0:
                yield Written(-1, pid, "file-unopenable")
            else:
                yield Written(fd, pid)

    @property
    def queued(self) -> int:
        """Tell how many events wait."""
        waiting_bytes = ctypes.c_int()
        fcntl.ioctl(self.fd, termios.FIONREAD, waiting_bytes)
        return waiting_bytes.value // _METADATA.size

    def close(self) -> None:
        """Drop all marks."""
        os.close(self.fd)


def own_mounts(mountinfo: str) -> list[Mount]:
    """Pick out of /proc/PID/mountinfo what belongs to the decky alone: its overlay root and its writable tmpfs.

    Source: proc_pid_mountinfo(5).

    Raises:
        NotFound: the root is no overlay, so that files of the host might be meant.
    """
    found: list[Mount] = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.partition(" ")[0]
        if len(fields) < 6 or not ((kind == "overlay" and fields[4] == "/") or (kind == "tmpfs" and _writable(fields))):
            continue
        major, _, minor = fields[2].partition(":")
        if major.isdigit() and minor.isdigit() and len(found) < MAX_MOUNTS:
            found.append(Mount(_unescaped(fields[4]), os.makedev(int(major), int(minor))))
    if not any(mount.path == "/" for mount in found):
        raise NotFound("The decky's root is no overlay filesystem", "Use Docker's overlay2 storage driver.")
    return found


def mount_ids(mountinfo: str) -> frozenset[int]:
    """List the ids of all mounts in a /proc/PID/mountinfo: what that process's mount namespace alone holds."""
    ids = (line.partition(" ")[0] for line in mountinfo.splitlines())
    return frozenset(int(text) for text in ids if text.isdigit())


def _writable(fields: list[str]) -> bool:
    # A tmpfs mounted from within another (root field not "/") is the engine's mask over a file of /proc.
    return "rw" in fields[5].split(",") and fields[3] == "/" and not fields[4].startswith(("/proc", "/sys"))


def _unescaped(path: str) -> str:
    """Undo the octal escapes of space, tab, newline and backslash."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path
