"""Whose filesystem is it: from the device of a written file to the decky, also when that has ended meanwhile.

Files of a decky may still wait in the kernel's queue when the decky is gone; the kernel keeps its filesystem until they
are read. So a decky that is forgotten only leaves: its devices stay known, with the processes that it had, until as
many events were dealt with as waited at that moment. Its namespace's number may be another decky's by then, the number
of its device cannot. A tap that takes over in between knows the devices and not the processes.

A decky's mounts are known by their ids too, which no other process than those in its mount namespace uses: who writes
into a decky's filesystem through another mount (`docker cp`, the engine itself) is none of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from decnet_agent.tap import procs, rooted
from decnet_agent.tap.attribution import Process
from decnet_agent.tap.fanotify import mount_ids, own_mounts
from decnet_agent.tap.file_queue import FileQueue
from decnet_agent.tap.observer import WATCHED, Watched
from decnet_agent.tap.remembered import PLAIN, Remembered
from decnet_core.errors import DecnetError


@dataclass(slots=True)
class Leaving:
    """A decky that is gone: its processes by pid, and after how many events nothing of it can come any more."""

    processes: Mapping[int, Process] = field(default_factory=dict)
    last_event: int | None = None


class Filesystems:
    """The filesystems of all deckies.

    Attributes:
        devices: whose they are; what a later tap must know.
    """

    def __init__(self, queue: FileQueue) -> None:
        self._queue = queue
        self.devices: Remembered[int, Watched] = Remembered("devices", PLAIN, WATCHED)
        self._leaving: dict[Watched, Leaving] = {}
        self._mounts: dict[Watched, frozenset[int]] = {}

    def restored(self, deckies: Iterable[Watched]) -> None:
        """Go on from what an earlier tap knew; what is none of these deckies' is of one that was leaving."""
        for decky in set(self.devices.values()) - set(deckies):
            self._leaving[decky] = Leaving()

    def watch(self, decky: Watched) -> None:
        """Watch all filesystems of a decky that are its own; again is harmless.

        Raises:
            DecnetError: not all can be watched (now).
        """
        try:
            mountinfo = Path(f"/proc/{decky.pid1}/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            mountinfo = ""
        self._leaving.pop(decky, None)
        failures: list[DecnetError] = []
        for mount in own_mounts(mountinfo):
            try:
                self._watch_one(decky, mount.path, mount.device)
            except DecnetError as failure:
                failures.append(failure)
        self._mounts[decky] = mount_ids(mountinfo)
        if failures:
            raise failures[0]

    def leave(self, decky: Watched, processes: Mapping[int, Process], last_event: int | None) -> list[int]:
        """Take in that a decky is gone; give its devices.

        Args:
            decky: which.
            processes: those that it had, by pid.
            last_event: after how many events nothing of it can come any more; None: not before `left(None)`.
        """
        self._leaving[decky] = Leaving(processes, last_event)
        return [device for device, owner in self.devices.items() if owner == decky]

    def left(self, events: int | None) -> None:
        """Take in how many events were dealt with, or that none wait (None): who leaves may be gone now."""
        for decky, leaving in list(self._leaving.items()):
            if events is None or (leaving.last_event is not None and events >= leaving.last_event):
                del self._leaving[decky]
                self._mounts.pop(decky, None)
                for device in [device for device, owner in self.devices.items() if owner == decky]:
                    self.devices.pop(device)

    def processes_of(self, decky: Watched) -> Mapping[int, Process] | None:
        """Give the processes of a decky that is gone; None for one that is watched."""
        leaving = self._leaving.get(decky)
        return None if leaving is None else leaving.processes

    def owner(self, device: int, fd: int) -> Watched | None:
        """Tell whose an open file is, of this device by fstat(2).

        That need not be its filesystem's own: an overlay whose layers lie on several disks gives its files others.
        """
        decky = self.devices.get(device)
        if decky is None and (mount := procs.mount_of(fd)) is not None:
            decky = next((decky for decky, mounts in self._mounts.items() if mount in mounts), None)
            if decky is not None:
                self.devices.put(device, decky)
        return decky

    def is_within(self, decky: Watched, fd: int) -> bool:
        """Tell whether a file was opened through a mount of the decky's own, as far as that is known."""
        mounts, mount = self._mounts.get(decky), procs.mount_of(fd)
        return not mounts or mount is None or mount in mounts

    def _watch_one(self, decky: Watched, path: str, device: int) -> None:
        directory = rooted.open_directory(decky.pid1, path)
        try:
            # Between the reading of the list and the opening nothing else may have come to this place.
            if os.fstat(directory).st_dev == device:
                self.devices.put(device, decky)
                self._queue.watch(directory)
        finally:
            os.close(directory)
