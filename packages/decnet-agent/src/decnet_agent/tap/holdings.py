"""Descriptors of the tap that outlive it, by name: what its supervisor holds, and what an earlier tap left there.

Whoever takes over takes the very same kernel objects, so probes go on running and buffers go on filling while no tap
runs. A name ends with the layout of what the programs write (`probes.layout`): a tap that understands another layout
refuses what it finds, so that it is closed everywhere and built anew.

Where nobody holds descriptors for us (a tap that is run by hand) nothing outlives it, and nothing else changes. A
supervisor that does not take what it is sent is told again, in order, until it does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import structlog

from decnet_core import descriptors

MAX_DESCRIPTORS = 4400
"""A thousand deckies with four probes each, 256 files in hand, 128 that are followed, and some for the rest. systemd
hands their names over in one environment variable, and Linux bounds that at 128 KiB."""
RETRY_SECS = 5.0
"""Between two attempts to reach a supervisor that did not answer: each may hold us up for `notify.SEND_SECS`."""

log = structlog.get_logger()


class Holdings:
    """What is held for us.

    Args:
        found: what an earlier tap left; ours to close.
        kept: whether to leave descriptors with our supervisor.
    """

    def __init__(self, found: Iterable[tuple[str, int]] = (), *, kept: bool = False) -> None:
        self._found: dict[str, int] = {}
        self._kept = kept and descriptors.supervised()
        self._owed: list[tuple[str, int | None]] = []
        """What our supervisor is still to be told, in order: to hold a descriptor, or (None) to let go of a name."""
        self._retry_at = 0.0
        for name, fd in found:
            if name in self._found:
                os.close(fd)
            else:
                self._found[name] = fd

    @classmethod
    def inherited(cls) -> Holdings:
        """Take over what an earlier tap left."""
        return cls(descriptors.inherited(), kept=True)

    def names(self) -> list[str]:
        """List what was found and is still to be taken."""
        return list(self._found)

    def take(self, name: str) -> int:
        """Give a descriptor that was found; it is the caller's now and is held for the next tap as before.

        Raises:
            KeyError: there is none of that name.
        """
        return self._found.pop(name)

    def keep(self, name: str, fd: int) -> None:
        """Have a descriptor of ours held for the next tap; it stays open until `let_go`."""
        if self._kept and (self._owed or not descriptors.keep(name, fd)):
            self._owe(name, fd)

    def let_go(self, name: str) -> None:
        """Have a descriptor held no more; our own of it is not closed."""
        never_held = next((owed for owed in self._owed if owed[0] == name and owed[1] is not None), None)
        if never_held is not None:
            self._owed.remove(never_held)
        elif self._kept and (self._owed or not descriptors.let_go(name)):
            self._owe(name, None)

    def settle(self) -> None:
        """Tell our supervisor what it did not take before."""
        if not self._owed or time.monotonic() < self._retry_at:
            return
        while self._owed:
            name, fd = self._owed[0]
            if not (descriptors.let_go(name) if fd is None else descriptors.keep(name, fd)):
                self._retry_at = time.monotonic() + RETRY_SECS
                return
            self._owed.pop(0)
        log.info("tap.descriptors_held")

    def refuse(self) -> list[str]:
        """Close what was found and not taken, here and where it is held; tell the names."""
        refused = list(self._found)
        for name in refused:
            self.let_go(name)
            os.close(self._found.pop(name))
        return refused

    def _owe(self, name: str, fd: int | None) -> None:
        if not self._owed:
            log.warning("tap.descriptors_unheld")
            self._retry_at = time.monotonic() + RETRY_SECS
        self._owed.append((name, fd))
