"""Give memory back to the system that a burst of work has left in the allocator.

Starting (building the routes' models) and applying a shard (the Docker library, archives) leave megabytes of free
memory that glibc keeps for later; an agent is idle for days, beside deckies that could use them.
"""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Collect garbage and return free pages; a no-op where libc is not glibc. Takes some 50 ms."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        return
