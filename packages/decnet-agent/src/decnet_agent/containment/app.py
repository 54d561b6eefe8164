"""The containment process: what the agent asks for is in the kernel, stays there, and what it keeps back is told.

    agent ──containment.sock──▶ Containment ──netlink──▶ a table and a sink for each interface
                                    ▲                              │ blocked frames
    <data-directory>/containment/   │                              ▼
        what was asked for last ────┘       packet socket ──▶ Ledger ──▶ EvidenceSender ──▶ events.sock

It takes CAP_NET_ADMIN and CAP_NET_RAW and nothing else: no engine's socket, no other process's memory, no network.

It enforces what was asked for last before it says that it is ready, so that an engine that waits for it starts no decky
unguarded. It looks every `LOOK_SECS`, and at once when the kernel says that somebody changed its rules; what is not as
it was put is put back, and if that fails the agent is told when it asks, and pauses the deckies. When it ends, rules
and sinks stay in the kernel: deckies go on, contained; only what is blocked meanwhile is not told.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import structlog

from decnet_agent.containment.blocked import Ledger
from decnet_agent.containment.channel import InterfaceStatus, Request, Status, Tried, serve_channel
from decnet_agent.containment.frames import read_frame
from decnet_agent.containment.interfaces import hardware_address, index_of, interfaces
from decnet_agent.containment.netlink import KernelRefused
from decnet_agent.containment.pairs import Policy, Wanted, read_wanted, write_wanted
from decnet_agent.containment.ruleset import make_ruleset, table_name
from decnet_agent.containment.sink import PAUSE_SECS, Sink, forsaken_sinks, links, remove_sink
from decnet_agent.containment.table import Changes, Table, forsaken, netfilter
from decnet_agent.evidence.sender import EvidenceSender, evidence_dropped
from decnet_agent.evidence.sensors import CONTAINMENT
from decnet_core import daemon
from decnet_core.errors import DecnetError, RemoteProtocolError
from decnet_core.events import Event

LOOK_SECS = 2.0
"""A question to the kernel for each interface; 50 µs."""

FIRST_SECS = 20.0
"""How long the manager, and with it the engine, is kept waiting for an interface that is not there at boot."""

TURN_SECS = 1.0

SUCCESSION_SECS, SUCCESSION_LOOK_SECS = 8.0, 0.1
"""A process that was killed with its supervisor ends within milliseconds, on a busy worker within seconds; shorter than
the agent waits for its answer."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Enforced:
    """What is in the kernel for one interface."""

    policy: Policy
    own: str
    table: Table
    sink: Sink


class Containment:
    """Everything wired together; `run` is its life. A running event loop is needed.

    Args:
        run_directory: of the sockets.
        folder: where what was asked for is kept.

    Raises:
        ConfigError: what was asked for last cannot be read.
        Unavailable: the kernel cannot be talked to.
    """

    def __init__(self, run_directory: Path, folder: Path) -> None:
        self._folder = folder
        self._socket = run_directory / "containment.sock"
        self._wanted = dict(read_wanted(folder).interfaces)
        self._rules, self._links, self._changes = netfilter(), links(), Changes()
        self._enforced: dict[str, _Enforced] = {}
        self._faults: dict[str, DecnetError] = {}
        self._sender = EvidenceSender(run_directory / "events.sock", f"{CONTAINMENT}{secrets.token_hex(8)}")
        self._ledger = Ledger(self._emit)
        self._changed = asyncio.Event()
        self._lost = 0

    async def run(self) -> None:
        """Contain until a signal comes."""
        ready = daemon.Ready(2)
        asyncio.get_running_loop().add_reader(self._changes, self._somebody_changed_something)
        try:
            self._clear()
            await daemon.run(
                {
                    "watch": lambda: self._watch(ready),
                    "channel": lambda: serve_channel(self._socket, self.answer, ready.one_more),
                    "events": self._sender.run,
                    "ledger": self._turn,
                },
                ready,
            )
        finally:
            asyncio.get_running_loop().remove_reader(self._changes)
            for enforced in self._enforced.values():
                self._stop_listening(enforced.sink)
            self._changes.close()
            self._rules.close()
            self._links.close()

    async def answer(self, request: Request) -> Status:
        """Do what the agent asks for.

        Raises:
            DecnetError: it cannot be enforced; what was enforced before is still.
        """
        if request.verb != "status":
            if request.interface is None:
                raise RemoteProtocolError("No interface was named", "Run the same release of agent and containment.")
            wanted = self._hold(request) if request.verb == "hold" else self._keep(request)
            if wanted != self._wanted:
                write_wanted(self._folder, Wanted(interfaces=wanted))
                self._wanted = wanted
            await self._enforce_patiently(request.interface)
            fault = self._faults.get(request.interface)
            if fault is not None:
                raise fault
        return self._status(request.decky)

    async def _enforce_patiently(self, interface: str) -> None:
        """Bring the kernel to what is wanted, also when a process before us that has the rules is just ending."""
        deadline = asyncio.get_running_loop().time() + SUCCESSION_SECS
        while True:
            self._enforce_all()
            fault = self._faults.get(interface)
            theirs = isinstance(fault, KernelRefused) and fault.number == errno.EPERM
            if not theirs or asyncio.get_running_loop().time() >= deadline:
                return
            await asyncio.sleep(SUCCESSION_LOOK_SECS)

    def _hold(self, request: Request) -> dict[str, Policy]:
        interface = request.interface or ""
        known = self._wanted.get(interface, Policy())
        held = request.policy.model_copy(update={"pairs": known.joined(request.policy.pairs)})
        return {**self._wanted, interface: held}

    @staticmethod
    def _keep(request: Request) -> dict[str, Policy]:
        kept = request.policy.model_copy(update={"pairs": Policy().joined(request.policy.pairs)})
        return {request.interface or "": kept} if kept.pairs else {}

    def _status(self, decky: str | None) -> Status:
        interfaces = tuple(
            InterfaceStatus(
                name=name,
                pairs=len(policy.pairs),
                owned=name in self._enforced and self._enforced[name].table.owned,
                fault=self._faults[name].message if name in self._faults else None,
            )
            for name, policy in sorted(self._wanted.items())
        )
        tried = self._ledger.recent(decky) if decky is not None else {}
        return Status(
            enforcing=not self._faults,
            interfaces=interfaces,
            blocked=self._ledger.total,
            lost=self._lost + sum(enforced.sink.lost for enforced in self._enforced.values()),
            tried=tuple(
                Tried(
                    protocol=attempt.protocol,
                    target_ip=attempt.target_ip,
                    target_port=attempt.target_port,
                    reason=attempt.reason,
                    frames=count,
                )
                for attempt, count in tried.items()
            ),
        )

    def _enforce_all(self) -> None:
        """Bring the kernel to what is wanted; what fails is in `_faults`."""
        for interface in self._enforced.keys() - self._wanted.keys():
            self._release(interface)
        for interface, policy in self._wanted.items():
            try:
                self._enforce(interface, policy)
            except DecnetError as fault:
                if interface not in self._faults:
                    log.warning("containment.failed", interface=interface, reason=fault.message, advice=fault.advice)
                self._faults[interface] = fault
            else:
                if self._faults.pop(interface, None) is not None:
                    log.info("containment.restored", interface=interface)
        for interface in self._faults.keys() - self._wanted.keys():
            del self._faults[interface]
        self._ledger.know(pair for policy in self._wanted.values() for pair in policy.pairs)

    def _enforce(self, interface: str, policy: Policy) -> None:
        index, own = index_of(interface), hardware_address(interface)
        present = self._enforced.get(interface)
        if present is not None:
            as_put = present.sink.parent_index == index and present.sink.alive() and present.table.intact()
            if as_put and (present.policy, present.own) == (policy, own):
                return
            if not as_put:
                log.warning("containment.tampered", interface=interface)
            if present.sink.parent_index != index or not present.sink.alive():
                self._stop_listening(present.sink)
                remove_sink(self._links, present.sink.parent_index)
                present.sink = self._listen(index)
        else:
            present = _Enforced(Policy(), "", Table(self._rules), self._listen(index))
            self._enforced[interface] = present
        present.table.load(make_ruleset(interface, [own], policy, present.sink.index, present.sink.end))
        present.policy, present.own = policy, own
        log.info("containment.loaded", interface=interface, deckies=len(policy.pairs), owned=present.table.owned)

    def _listen(self, parent_index: int) -> Sink:
        sink = Sink(self._links, parent_index)
        asyncio.get_running_loop().add_reader(sink, self._read, sink)
        return sink

    def _release(self, interface: str) -> None:
        enforced = self._enforced.pop(interface)
        self._stop_listening(enforced.sink)
        try:
            enforced.table.remove()
            remove_sink(self._links, enforced.sink.parent_index)
        except DecnetError as fault:  # too much is enforced, not too little
            log.warning("containment.failed", interface=interface, reason=fault.message, advice=fault.advice)
        else:
            log.info("containment.removed", interface=interface)

    def _clear(self) -> None:
        """Remove what was left for interfaces that are gone."""
        try:
            names = forsaken(self._rules, frozenset(map(table_name, [*self._wanted, *interfaces()])))
            numbers = forsaken_sinks()
            for number in numbers:
                remove_sink(self._links, number)
        except DecnetError as fault:
            log.warning("containment.failed", interface="-", reason=fault.message, advice=fault.advice)
        else:
            if names or numbers:
                log.info("containment.cleared", tables=names, sinks=len(numbers))

    async def _watch(self, ready: daemon.Ready) -> NoReturn:
        loop = asyncio.get_running_loop()
        began, told = loop.time(), False
        while True:
            self._enforce_all()
            if not told and (not self._faults or loop.time() - began >= FIRST_SECS):
                told = True
                log.info("containment.started", interfaces=sorted(self._wanted), source=self._sender.source)
                ready.one_more()
            self._changed.clear()
            try:
                async with asyncio.timeout(LOOK_SECS):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _somebody_changed_something(self) -> None:
        self._changes.drain()
        self._changed.set()

    async def _turn(self) -> NoReturn:
        try:
            while True:
                await asyncio.sleep(TURN_SECS)
                self._ledger.turn(datetime.now(UTC))
                for enforced in self._enforced.values():
                    self._tell_lost(enforced.sink)
        finally:
            self._ledger.finish(datetime.now(UTC))

    def _tell_lost(self, sink: Sink) -> None:
        lost, sink.lost = sink.lost, 0
        if lost:
            self._lost += lost
            log.warning("evidence.dropped", count=lost, reason="blocked-frames-unread")
            self._emit(evidence_dropped(lost, "blocked-frames-unread", datetime.now(UTC)))

    def _read(self, sink: Sink) -> None:
        """Read some frames, and the next ones a little later: a flood gets no more of us than that."""
        loop = asyncio.get_running_loop()
        now = datetime.now(UTC)
        for data in sink.read():
            frame = read_frame(data)
            if frame is not None:
                self._ledger.see(frame, now)
        loop.remove_reader(sink)
        loop.call_later(PAUSE_SECS, self._read_on, sink)

    def _read_on(self, sink: Sink) -> None:
        if any(enforced.sink is sink for enforced in self._enforced.values()):
            asyncio.get_running_loop().add_reader(sink, self._read, sink)

    def _stop_listening(self, sink: Sink) -> None:
        asyncio.get_running_loop().remove_reader(sink)
        self._read(sink)
        asyncio.get_running_loop().remove_reader(sink)
        sink.close()

    def _emit(self, event: Event) -> None:
        self._sender.offer(event)


async def serve(run_directory: Path, data_directory: Path) -> None:
    """Contain until a signal comes: what `decnet-agent containment` does.

    Raises:
        ConfigError, Unavailable: as `Containment`.
    """
    await Containment(run_directory, data_directory / "containment").run()
