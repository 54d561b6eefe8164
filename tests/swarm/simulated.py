"""A worker's agent without a worker: it keeps the contract of `decnet_agent.api.routes.Agent` in memory.

Behind the agent's own HTTP server and routes it is what the master cannot tell from the real one, at a price of which
a thousand fit into one process. `test_simulated` holds both to the same contract: what the master relies on
(generations, idempotence, only what differs is touched, each decky's failure its own) is true of both or of neither.

It is its own small model and shares no line with the agent's planner, so that one is an oracle for the other. It does
not model time: whatever is asked for is done at once, unless `release` is cleared.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network

from decnet_core.errors import Conflict, Unavailable
from decnet_core.fleet import AgentStatus, DeckyPhase, DeckySpec, DeckyState, Health, Shard, ShardReport

VERSION = "0.1.0"
SUBNET = IPv4Network("10.20.0.0/16")


@dataclass
class _Made:
    """A container in name only."""

    spec: DeckySpec
    ip: IPv4Address
    mac: str
    container: str
    running: bool = True

    def fits(self, spec: DeckySpec, ip: IPv4Address) -> bool:
        """Tell whether this is what is wanted; an address or MAC that the worker chose is as good as any."""
        same = spec.services == self.spec.services and spec.accounts == self.spec.accounts
        return same and ip == self.ip and spec.mac in (None, self.mac)


class SimulatedAgent:
    """One worker's agent.

    Attributes:
        broken: names of deckies that fail, with `reason`, as long as they are in here.
        engine: the version of the engine; None while it does not answer.
        shards: every shard that was taken, in order.
        asked: set once a shard was asked for.
        release: shards wait for it before anything is done with them.
    """

    def __init__(self, host: str, subnet: IPv4Network = SUBNET) -> None:
        self.host = host
        self.broken: set[str] = set()
        self.reason = "the image is missing"
        self.engine: str | None = "20.10.24"
        self.generation = 0
        self.shards: list[Shard] = []
        self.asked = asyncio.Event()
        self.release = asyncio.Event()
        self.release.set()
        self._turn = asyncio.Lock()
        self._subnet = subnet
        self._shard: Shard | None = None
        self._made: dict[str, _Made] = {}
        self._addresses: dict[str, tuple[IPv4Address, IPv4Address | None]] = {}  # and what was named
        self._containers = 0

    @property
    def running(self) -> dict[str, DeckyState]:
        """The deckies that run here, by name."""
        return {name: self._state(made.spec) for name, made in self._made.items() if made.running}

    def end(self, name: str) -> None:
        """Let a decky end by itself."""
        self._made[name].running = False

    def health(self) -> Health:
        """Tell that the agent lives."""
        return Health(role="agent", host=self.host, version=VERSION)

    async def status(self) -> AgentStatus:
        """Tell what runs here, also without an engine."""
        specs = () if self._shard is None else self._shard.deckies
        return AgentStatus(
            host=self.host,
            version=VERSION,
            generation=self.generation,
            deckies=tuple(self._state(spec) for spec in specs),
            engine=self.engine,
            at=datetime.now(UTC),
        )

    async def apply(self, shard: Shard) -> ShardReport:
        """Run what the shard says.

        Raises:
            Conflict: a newer generation is known.
            Unavailable: there is no engine; what is wanted is known all the same.
        """
        self.asked.set()
        async with self._turn:
            await self.release.wait()
            if shard.generation < self.generation:
                raise Conflict(f"Generation {shard.generation} is older than {self.generation}", "Deploy again.")
            self.generation, self._shard = shard.generation, shard
            self.shards.append(shard)
            if self.engine is None:
                raise Unavailable("No Docker engine answers", "Start Docker.")
            return self._apply(shard)

    def _apply(self, shard: Shard) -> ShardReport:
        before = set(self._made)
        wanted = {spec.name: spec for spec in shard.deckies}
        addresses = self._assigned(wanted)
        for name in before:
            if name not in wanted or not self._made[name].fits(wanted[name], addresses[name]):
                del self._made[name]
        for name, spec in wanted.items():
            if name in self._made:
                self._made[name].running |= name not in self.broken
            elif name not in self.broken:
                self._made[name] = self._make(spec, addresses[name])
        return ShardReport(
            host=self.host,
            generation=shard.generation,
            deckies=tuple(self._reported(spec) for spec in wanted.values()),
            removed=tuple(sorted(before - self._made.keys())),
        )

    def _assigned(self, wanted: dict[str, DeckySpec]) -> dict[str, IPv4Address]:
        """Give every decky its address: the bids for one address are won by the strongest, and the first among equals.

        A running machine is moved by an order and by need, never by an opportunity: an order is what a shard names and
        the one before did not.
        """
        gateway, bids = self._subnet[1], list[tuple[int, str, IPv4Address]]()
        for name, spec in wanted.items():
            had, named_before = self._addresses.get(name, (None, None))
            if had is not None:
                bids.append((3 if had == spec.ip else 1, name, had))
            if spec.ip is not None and spec.ip in self._subnet and spec.ip != gateway:
                bids.append((2 if spec.ip != named_before else 0, name, spec.ip))
        given: dict[str, IPv4Address] = {}
        for _strength, name, ip in sorted(bids, key=lambda bid: -bid[0]):
            if name not in given and ip not in given.values():
                given[name] = ip
        free = (ip for ip in self._subnet.hosts() if ip != gateway and ip not in given.values())
        for name in [name for name in wanted if name not in given]:
            given[name] = next(free)
        self._addresses = {name: (ip, wanted[name].ip) for name, ip in given.items()}
        return given

    def _make(self, spec: DeckySpec, ip: IPv4Address) -> _Made:
        self._containers += 1
        digest = sha256(f"{self.host} {spec.name} {self._containers}".encode()).hexdigest()
        mac = spec.mac or f"3c:d9:2b:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"
        return _Made(spec, ip, mac, digest)

    def _state(self, spec: DeckySpec) -> DeckyState:
        made = self._made.get(spec.name)
        running = self.engine is not None and made is not None and made.running
        return DeckyState(
            name=spec.name,
            phase=DeckyPhase.RUNNING if running else DeckyPhase.STOPPED,
            services=spec.services,
            ip=self._addresses.get(spec.name, (None,))[0],
            mac=None if made is None else made.mac,
            container=None if made is None or self.engine is None else made.container,
            error=None if running else "its container does not run",
        )

    def _reported(self, spec: DeckySpec) -> DeckyState:
        state = self._state(spec)
        failed = {} if state.phase is DeckyPhase.RUNNING else {"phase": DeckyPhase.FAILED, "error": self.reason}
        return state.model_copy(update=failed)
