"""The tap's composition root: kernel records and file events in, events out to the collector. Runs as root.

    ring of the kernel's programs ──▶ Observer ──┐
                                        ▲        ├──▶ EvidenceSender ──▶ <run-directory>/events.sock
    fanotify ──▶ Captures ──▶ Quarantine┘────────┤
    ring of terminals ──▶ Recordings ──▶ Quarantine
    <run-directory>/deckies.json ──▶ which namespaces and filesystems to watch

It opens no network socket and has no Docker socket. A tap that is killed is succeeded by one that goes on where it was:
the kernel's probes, its ring and its file queue are held by our supervisor meanwhile (`holdings`) and go on filling,
and what was made of their content is in a file (`memory`), written before the kernel is told to free it and before any
of it is sent. Nobody else holds them: when the supervisor ends, or systemd stops the unit, all is gone from the kernel.
A tap that finds nothing held begins afresh, with what the memory knows of the processes that it finds.

Order: before a file is attributed, all records that the kernel had begun by then are taken in (`intake`). Nothing waits
for ever: records that find no room in the ring and files that find no room in the queue are counted and told.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import structlog

from decnet_agent.evidence.sender import EvidenceSender, evidence_dropped
from decnet_agent.tap import leftovers, procs
from decnet_agent.tap.captures import Captures
from decnet_agent.tap.deckies import DeckyList, RunningDecky
from decnet_agent.tap.file_queue import FileQueue
from decnet_agent.tap.holdings import MAX_DESCRIPTORS, Holdings
from decnet_agent.tap.intake import reached
from decnet_agent.tap.memory import Memory
from decnet_agent.tap.observer import WATCHED, Observer, Watched
from decnet_agent.tap.probes import KernelProbes
from decnet_agent.tap.quarantine import FILE_BYTES, TOTAL_BYTES, Quarantine
from decnet_agent.tap.recordings import SHOWN_BYTES
from decnet_agent.tap.records import Records
from decnet_agent.tap.remembered import PLAIN, Remembered
from decnet_agent.tap.terminals import Terminals
from decnet_core import daemon
from decnet_core.errors import DecnetError, Unavailable
from decnet_core.events import Event

LIST_SECS = 0.25
"""How often the list of deckies is looked at: one stat(2)."""
ADOPT_EVERY = 20
"""… and every so many looks, whether a decky that could not be watched can be now, and which are gone."""
REFRESHED_AT_ONCE = 25
"""Deckies whose probed files are looked at in one look, in turn: two opens each, some 50 microseconds. Who replaces his
shell is probed anew before the next session logs in."""
ALIVE_EVERY = 4
"""… and every so many, it is noted that a tap lives."""

log = structlog.get_logger()


class Tap:
    """Everything wired together; `run` is its life.

    Args:
        holdings: what an earlier tap left with our supervisor.
        quarantine: for captured files.
        run_directory: of the collector's socket and the list of deckies.
        memory_directory: of the memory, and of recordings that are being written.
        recording_bytes: of one terminal's output that are recorded.
    """

    def __init__(
        self,
        holdings: Holdings,
        quarantine: Quarantine,
        run_directory: Path,
        memory_directory: Path,
        *,
        recording_bytes: int = SHOWN_BYTES,
    ) -> None:
        self._quarantine = quarantine
        self._collector = run_directory / "events.sock"
        self._list = DeckyList(run_directory / "deckies.json")
        self._observer = Observer(self._emit)
        self._probes = KernelProbes(holdings)
        self._refreshed = -1
        self._records = Records(self._probes, self._observer.take, self._commit)
        self._queue = FileQueue(holdings)
        self._holdings = holdings
        self._captures = Captures(
            self._queue,
            quarantine,
            self._observer,
            self._emit,
            holdings=holdings,
            past=self._records,
            commit=self._commit,
        )
        self._terminals = Terminals(
            holdings,
            self._probes.maps,
            quarantine,
            self._observer,
            self._emit,
            continued=self._probes.taken_over,
            folder=memory_directory / "recordings",
            past=self._records,
            commit=self._commit,
            shown_bytes=recording_bytes,
        )
        self._watched: Remembered[str, Watched] = Remembered("watched", PLAIN, WATCHED)
        self._known: Remembered[str, int] = Remembered("known", PLAIN, PLAIN)
        """Deckies of whose processes we know: all that ran when they were first looked at."""
        tables = (self._watched, self._known, *self._observer.tables, *self._captures.tables)
        self._memory = Memory(memory_directory, (*tables, self._terminals.recordings.table))
        self._sender = EvidenceSender(self._collector, self._memory.source, held=True)
        self._sender.restore(self._memory.outbox, self._memory.progress.last)
        self._sender.dropped = self._memory.progress.dropped
        self._running: list[RunningDecky] = []
        """What the agent's list said last."""
        self._unmarked: set[str] = set()
        """Containers of deckies not all of whose filesystems are watched yet."""
        self._take_over()
        refused = holdings.refuse()
        if refused:
            log.info("tap.descriptors_refused", names=len(refused))

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Watch until cancelled, or until a signal comes."""
        loop = asyncio.get_running_loop()
        self._records.start()
        self._terminals.start()
        log.info("tap.started", source=self._sender.source)
        if ready:
            ready()
        tasks = {
            "deckies": self._follow_deckies,
            "sender": self._sender.run,
            "quarantine": self._captures.run,
            "names": self._captures.follow,
            "leftovers": self._deliver_leftovers,
            "recordings": self._terminals.recordings.run,
            "terminals": self._terminals.follow,
        }
        try:
            await daemon.run(tasks)
        finally:
            # Who stops us may say so twice: a supervisor that is asked to end, and then its own death.
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, _told_again)
            self._records.stop()
            await reached(self._records)
            self._terminals.stop()
            await self._captures.finish()
            kept = len(self._sender.undelivered())
            if kept:
                log.info("evidence.kept", count=kept, source=self._sender.source)
            self._captures.close()
            self._terminals.close()
            self._probes.close()
            self._quarantine.close()
            self._memory.close()

    def _emit(self, event: Event) -> None:
        self._sender.offer(event)

    def _commit(self) -> None:
        """Make safe what was made of the kernel's records, then free their room and let the events go out."""
        self._memory.progress.position = self._probes.position
        self._terminals.note(self._memory.progress)
        self._memory.commit(self._sender)
        self._probes.consume()
        self._terminals.consume()

    def _take_over(self) -> None:
        """Go on where an earlier tap was, as far as what it left fits together."""
        memory, progress = self._memory, self._memory.progress
        gapless = self._probes.taken_over and progress.ring == self._probes.generation
        if gapless:
            self._probes.skip_to(progress.position)
            self._observer.behind_ns = int(memory.gap_secs * 1e9)
        else:
            progress.lost = 0
        progress.ring = self._probes.generation
        deckies = self._watched.values()
        self._captures.restored(deckies)
        self._observer.restored(deckies)
        self._terminals.take_over(progress)
        for decky in deckies:
            self._look(decky, anew=not gapless or self._known.get(decky.container_id) != decky.pid1)
        for namespace in self._probes.watched() - {decky.namespace for decky in deckies}:
            self._probes.forget(namespace)
        if memory.found:
            log.info("tap.taken_over", gapless=gapless, deckies=len(deckies), gap_secs=round(memory.gap_secs, 3))

    async def _deliver_leftovers(self) -> None:
        await leftovers.deliver(self._memory.older, self._collector)

    async def _follow_deckies(self) -> NoReturn:
        looks = 0
        while True:
            listed = self._read_list()
            if listed is not None:
                self._running = listed
                await self._forget_others()
            if listed is not None or looks % ADOPT_EVERY == 0:
                self._adopt()
            if looks % ADOPT_EVERY == 0:
                await self._forget_restarted()
            self._refresh_next()
            if looks % ALIVE_EVERY == 0:
                self._memory.alive()
            for decky in self._watched.values():
                if decky.container_id in self._unmarked:
                    self._mark(decky)
            self._holdings.settle()
            looks += 1
            self._tell_lost()
            self._commit()
            await asyncio.sleep(LIST_SECS)

    def _read_list(self) -> list[RunningDecky] | None:
        """Read the list of deckies; None when it says nothing new."""
        try:
            return self._list.changed()
        except DecnetError as cause:
            log.warning("tap.list_unreadable", reason=cause.message)
            return None

    def _adopt(self) -> None:
        for decky in self._running:
            if decky.container_id not in self._watched:
                self._watch(decky)

    async def _forget_others(self) -> None:
        wanted = {(decky.container_id, decky.name, decky.pid1) for decky in self._running}
        for watched in self._watched.values():
            if (watched.container_id, watched.name, watched.pid1) not in wanted:
                await self._forget(watched)

    def _watch(self, decky: RunningDecky) -> None:
        namespace = procs.namespace_of(decky.pid1)
        if namespace is None or namespace == procs.namespace_of(os.getpid()):
            log.warning("tap.decky_unwatchable", decky=decky.name, reason="its first process is gone or is the host's")
            return
        watched = Watched(decky.name, decky.container_id, decky.pid1, namespace)
        # Before the kernel tells the first thing of it: a later tap must know whose record that is.
        self._watched.put(decky.container_id, watched)
        self._commit()
        self._look(watched, anew=True)

    def _look(self, decky: Watched, *, anew: bool) -> None:
        """Watch a decky, also one that an earlier tap watched.

        Args:
            decky: which.
            anew: whether its processes must be looked for, because no tap has followed them up to now.
        """
        # First the kernel tells of what begins from now on, then /proc of what runs already: nothing falls between.
        self._probes.watch(decky.namespace)
        if anew:
            self._observer.watch(decky)
            self._known.put(decky.container_id, decky.pid1)
            self._commit()
        self._probes.refresh(decky.namespace, decky.pid1, decky.name)
        self._mark(decky)
        log.info("tap.decky_watched", decky=decky.name)

    def _mark(self, decky: Watched) -> None:
        """Watch a decky's filesystems; what cannot be watched now is tried again at each look."""
        try:
            self._captures.watch(decky)
        except DecnetError as cause:
            if decky.container_id not in self._unmarked:
                log.warning("tap.decky_unwatchable", decky=decky.name, reason=cause.message)
            self._unmarked.add(decky.container_id)
        else:
            self._unmarked.discard(decky.container_id)

    async def _forget(self, decky: Watched) -> None:
        await reached(self._records)
        self._terminals.forget(decky)
        self._watched.pop(decky.container_id)
        self._known.pop(decky.container_id)
        self._unmarked.discard(decky.container_id)
        self._probes.forget(decky.namespace)
        self._captures.forget(decky, self._observer.forget(decky.namespace))
        log.info("tap.decky_forgotten", decky=decky.name)

    async def _forget_restarted(self) -> None:
        for decky in self._watched.values():
            if procs.namespace_of(decky.pid1) != decky.namespace:
                await self._forget(decky)

    def _refresh_next(self) -> None:
        deckies = list(self._watched.values())
        for _ in range(min(REFRESHED_AT_ONCE, len(deckies))):
            self._refreshed = (self._refreshed + 1) % len(deckies)
            decky = deckies[self._refreshed]
            if procs.namespace_of(decky.pid1) == decky.namespace:
                self._probes.refresh(decky.namespace, decky.pid1, decky.name)

    def _tell_lost(self) -> None:
        lost = self._probes.lost()
        count, self._memory.progress.lost = lost - self._memory.progress.lost, lost
        if count:
            log.warning("evidence.dropped", count=count, reason="kernel-ring-full")
            self._emit(evidence_dropped(count, "kernel-ring-full", datetime.now(UTC)))


def build(
    run_directory: Path,
    data_directory: Path,
    *,
    file_bytes: int = FILE_BYTES,
    total_bytes: int = TOTAL_BYTES,
    recording_bytes: int = SHOWN_BYTES,
) -> Tap:
    """Wire the tap; a running event loop is needed.

    Raises:
        Unavailable: not root, or the kernel cannot do what the tap needs; `capabilities.probe_kernel` says what.
    """
    if os.geteuid() != 0:
        raise Unavailable(
            "The tap does not run as root", "Run it as root, or by its own unit: `systemctl start decnet-tap`."
        )
    _allow_descriptors()
    return Tap(
        Holdings.inherited(),
        Quarantine(data_directory / "quarantine", file_bytes=file_bytes, total_bytes=total_bytes),
        run_directory,
        data_directory / "tap",
        recording_bytes=recording_bytes,
    )


async def serve(run_directory: Path, data_directory: Path, *, recording_bytes: int = SHOWN_BYTES) -> None:
    """Run the tap until a signal comes: what `decnet-agent tap` does.

    Args:
        run_directory: of the collector's socket and the list of deckies.
        data_directory: of the quarantine and the memory.
        recording_bytes: of one terminal's output that are recorded.

    Raises:
        Unavailable: as `build`.
    """
    await build(run_directory, data_directory, recording_bytes=recording_bytes).run()


def _told_again() -> None:
    log.debug("tap.ending")


def _allow_descriptors() -> None:
    """Make room for the probes of many deckies: most systems allow 1024 open files until one asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
