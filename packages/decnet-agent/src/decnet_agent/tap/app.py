"""The tap's composition root: kernel records and file events in, events out to the collector. Runs as root.

    ring of the kernel's programs ──▶ Observer ──┐
                                        ▲        ├──▶ EvidenceSender ──▶ <run-directory>/events.sock
    fanotify ──▶ Captures ──▶ Quarantine┘────────┘
    <run-directory>/deckies.json ──▶ which namespaces and filesystems to watch

It opens no network socket and has no Docker socket. All that it puts into the kernel hangs on its own descriptors and
goes with it, so a tap that was killed leaves nothing behind, and the next one begins afresh: processes that run are
read from /proc, their sessions found again by the same rule and with the same ids. (An attacker's background process
whose shell has already ended has no visible ancestor then and is not attributed any more.)

Order: before a file is attributed, all records that the kernel has written are taken in. Nothing waits for ever:
records that find no room in the ring and files that find no room in the queue are counted and told.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import structlog

from decnet_agent.evidence.sender import EvidenceSender, evidence_dropped
from decnet_agent.tap import procs
from decnet_agent.tap.captures import Captures
from decnet_agent.tap.deckies import DeckyList, RunningDecky
from decnet_agent.tap.leftovers import Leftovers
from decnet_agent.tap.observer import Observer, Watched
from decnet_agent.tap.probes import KernelProbes
from decnet_agent.tap.quarantine import FILE_BYTES, TOTAL_BYTES, Quarantine
from decnet_core import daemon
from decnet_core.errors import DecnetError, Unavailable

LIST_SECS = 0.25
"""How often the list of deckies is looked at: one stat(2)."""
REFRESH_EVERY = 20
"""… and every so many looks, what is probed in each decky."""
RECORDS_AT_ONCE = 2000
"""Records taken before other things get a turn: about 50 ms."""

log = structlog.get_logger()


class Tap:
    """Everything wired together; `run` is its life."""

    def __init__(
        self,
        probes: KernelProbes,
        quarantine: Quarantine,
        sender: EvidenceSender,
        leftovers: Leftovers,
        deckies: DeckyList,
    ) -> None:
        self._probes, self._quarantine, self._sender, self._list = probes, quarantine, sender, deckies
        self._leftovers = leftovers
        self._observer = Observer(sender.offer)
        self._captures = Captures(quarantine, self._observer, sender.offer)
        self._watched: dict[RunningDecky, Watched] = {}

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Watch until cancelled, or until a signal comes."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._probes.fd, self._read_records, RECORDS_AT_ONCE)
        loop.add_reader(self._captures.fd, self._captures.read, self._drain_records)
        log.info("tap.started", source=self._sender.source)
        if ready:
            ready()
        tasks = {
            "deckies": self._follow_deckies,
            "sender": self._sender.run,
            "quarantine": self._captures.run,
            "names": self._captures.follow,
            "leftovers": self._leftovers.deliver,
        }
        try:
            await daemon.run(tasks)
        finally:
            loop.remove_reader(self._probes.fd)
            loop.remove_reader(self._captures.fd)
            self._drain_records()
            await self._captures.finish(self._drain_records)
            self._leftovers.keep(self._sender)
            self._captures.close()
            self._probes.close()
            self._quarantine.close()

    async def _follow_deckies(self) -> NoReturn:
        looks = 0
        while True:
            try:
                running = self._list.changed()
            except DecnetError as cause:
                log.warning("tap.list_unreadable", reason=cause.message)
                running = None
            if running is not None:
                self._adopt(running)
            if looks % REFRESH_EVERY == 0:
                self._refresh()
            looks += 1
            self._tell_lost()
            await asyncio.sleep(LIST_SECS)

    def _adopt(self, running: list[RunningDecky]) -> None:
        for gone in self._watched.keys() - set(running):
            self._forget(gone)
        for decky in running:
            if decky not in self._watched:
                self._watch(decky)

    def _watch(self, decky: RunningDecky) -> None:
        namespace = procs.namespace_of(decky.pid1)
        if namespace is None or namespace == procs.namespace_of(os.getpid()):
            log.warning("tap.decky_unwatchable", decky=decky.name, reason="its first process is gone or is the host's")
            return
        watched = Watched(decky.name, decky.container_id, decky.pid1, namespace)
        self._watched[decky] = watched
        # First the kernel tells of what begins from now on, then /proc of what runs already: nothing falls between.
        self._probes.watch(namespace)
        self._observer.watch(watched)
        self._probes.refresh(namespace, decky.pid1, decky.name)
        try:
            self._captures.watch(watched)
        except DecnetError as cause:
            log.warning("tap.decky_unwatchable", decky=decky.name, reason=cause.message)
        log.info("tap.decky_watched", decky=decky.name)

    def _forget(self, decky: RunningDecky) -> None:
        self._drain_records()
        namespace = self._watched.pop(decky).namespace
        self._probes.forget(namespace)
        self._captures.forget(namespace)
        self._observer.forget(namespace)
        log.info("tap.decky_forgotten", decky=decky.name)

    def _refresh(self) -> None:
        for decky, watched in list(self._watched.items()):
            if procs.namespace_of(decky.pid1) != watched.namespace:
                self._forget(decky)
            else:
                self._probes.refresh(watched.namespace, decky.pid1, decky.name)

    def _read_records(self, limit: int) -> None:
        for data in self._probes.read(limit):
            try:
                self._observer.take(data)
            except DecnetError as cause:
                log.warning("tap.record_unreadable", reason=cause.message)

    def _drain_records(self) -> None:
        # Bounded by what the ring held when we came: an attacker who adds as fast as we read gets no endless loop.
        self._read_records(4 * RECORDS_AT_ONCE)

    def _tell_lost(self) -> None:
        lost = self._probes.lost()
        if lost:
            log.warning("evidence.dropped", count=lost, reason="kernel-ring-full")
            self._sender.offer(evidence_dropped(lost, "kernel-ring-full", datetime.now(UTC)))


def build(
    run_directory: Path,
    data_directory: Path,
    *,
    file_bytes: int = FILE_BYTES,
    total_bytes: int = TOTAL_BYTES,
) -> Tap:
    """Wire the tap; a running event loop is needed.

    Raises:
        Unavailable: not root, or the kernel cannot do what the tap needs; `capabilities.probe_kernel` says what.
    """
    if os.geteuid() != 0:
        raise Unavailable(
            "The tap does not run as root", "Run it as root, or by its own unit: `systemctl start decnet-tap`."
        )
    collector = run_directory / "events.sock"
    return Tap(
        KernelProbes(),
        Quarantine(data_directory / "quarantine", file_bytes=file_bytes, total_bytes=total_bytes),
        EvidenceSender(collector, f"tap.{secrets.token_hex(8)}"),
        Leftovers(data_directory / "tap", collector),
        DeckyList(run_directory / "deckies.json"),
    )


async def serve(run_directory: Path, data_directory: Path) -> None:
    """Run the tap until a signal comes: what `decnet-agent tap` does.

    Raises:
        Unavailable: as `build`.
    """
    await build(run_directory, data_directory).run()
