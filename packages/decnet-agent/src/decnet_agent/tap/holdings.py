"""Descriptors of the tap that outlive it, by name: what its supervisor holds, and what an earlier tap left there.

Whoever takes over takes the very same kernel objects, so probes go on running and buffers go on filling while no tap
runs. A name ends with the layout of what the programs write (`probes.layout`): a tap that understands another layout
refuses what it finds, so that it is closed everywhere and built anew.

Where nobody holds descriptors for us (a tap that is run by hand) nothing outlives it, and nothing else changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from decnet_core import descriptors

MAX_DESCRIPTORS = 4400
"""A thousand deckies with four probes each, 256 files in hand, 128 that are followed, and some for the rest. systemd
hands their names over in one environment variable, and Linux bounds that at 128 KiB."""


class Holdings:
    """What is held for us.

    Args:
        found: what an earlier tap left; ours to close.
        kept: whether to leave descriptors with our supervisor.
    """

    def __init__(self, found: Iterable[tuple[str, int]] = (), *, kept: bool = False) -> None:
        self._found: dict[str, int] = {}
        self._kept = kept
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
        """Have a descriptor of ours held for the next tap."""
        if self._kept:
            descriptors.keep(name, fd)

    def let_go(self, name: str) -> None:
        """Have a descriptor held no more; our own of it is not closed."""
        if self._kept:
            descriptors.let_go(name)

    def refuse(self) -> list[str]:
        """Close what was found and not taken, here and where it is held; tell the names."""
        refused = list(self._found)
        for name in refused:
            self.let_go(name)
            os.close(self._found.pop(name))
        return refused
