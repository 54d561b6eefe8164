"""Tell the loop that something in a folder changed: inotify(7), by way of ctypes.

Where inotify is not to be had (a bound of instances, an unusual file system, a folder that does not exist yet), the
caller is woken every `POLL_SECS`, which costs a few system calls. With inotify he is still woken every `SAFETY_SECS`:
a network file system may change without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

POLL_SECS = 0.05
SAFETY_SECS = 1.0

# linux/inotify.h
_IN_MODIFY, _IN_MOVED, _IN_CREATE = 0x2, 0x40 | 0x80, 0x100
_READ_BYTES = 1 << 16


async def watch(folder: Path, wake: Callable[[], None], safety_secs: float = SAFETY_SECS) -> None:
    """Call `wake` after each change in the folder, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        descriptor = _subscribe(folder)
        if descriptor is None:
            await asyncio.sleep(POLL_SECS)
            wake()
            continue

        def changed(descriptor: int = descriptor) -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, _READ_BYTES)
            wake()

        loop.add_reader(descriptor, changed)
        try:
            subscribed_to = _inode(folder)
            while _inode(folder) == subscribed_to is not None:
                wake()
                await asyncio.sleep(safety_secs)
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _subscribe(folder: Path) -> int | None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        return None
    if libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_MODIFY | _IN_MOVED | _IN_CREATE) < 0:
        os.close(descriptor)
        return None
    return descriptor
