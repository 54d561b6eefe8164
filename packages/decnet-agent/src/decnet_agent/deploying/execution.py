"""Apply a shard: look, plan, ask the LAN, do the steps, look and ask again, report.

One shard at a time. What takes away or builds is done one step after the other, then all deckies are brought up
together (`bringing_up`), their host keys made from the beginning on (`key_making`). What is wanted is on disk before
the first step; a step that fails is that decky's failure and no one else's, and the report says why. A worker that has
something newer refuses. Applying again mends what failed.

An address is asked for when it is chosen, again just before its decky is started, and once more when it runs: two
workers that choose the same at the same moment both hear of it, and choose again. What is found later is drift: it is
told, and mended when a shard is applied the next time.

The engine's calls block and run in threads of their own; one that was begun is waited for, whatever ends the shard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address
from typing import ParamSpec, Protocol, TypeVar

import structlog

from decnet_agent.containment.channel import Guarding
from decnet_agent.containment.pairs import Pair
from decnet_agent.deploying.bringing_up import AT_ONCE, BringingUp
from decnet_agent.deploying.enquiry import Enquiry
from decnet_agent.deploying.failures import Failures
from decnet_agent.deploying.key_making import KeyMaking
from decnet_agent.deploying.lan import Claim, NetworkFacts
from decnet_agent.deploying.planning import (
    BuildImage,
    CreateDecky,
    CreateNetwork,
    PlacedDecky,
    Plan,
    RemoveDecky,
    StartDecky,
    Step,
    World,
    check_generation,
    image_set,
    make_plan,
)
from decnet_agent.deploying.relocalising import Assignment
from decnet_agent.deploying.reporting import report
from decnet_agent.deploying.state import StateFile
from decnet_agent.engine.client import Engine
from decnet_agent.furnishing.accounts import Image, furnish
from decnet_agent.furnishing.archive import ArchiveEntry
from decnet_agent.furnishing.host_keys import HostKeys
from decnet_agent.furnishing.living import life_of
from decnet_agent.furnishing.passwords import hash_password
from decnet_agent.furnishing.site import Site, local_zone
from decnet_agent.memory import give_back
from decnet_core.errors import ConfigError, DecnetError
from decnet_core.fleet import DeckySpec, Shard, ShardReport

DRAIN_SECS = 15.0
"""How long the last words of a stopped container may take into the log; a full disk takes longer, and is waited out
no further: the operator asked for the decky to go."""

ATTEMPTS = 5
"""How often other addresses are taken for those that turn out to be somebody's after they were found free."""

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


class Consoles(Protocol):
    """What collects the deckies' consoles."""

    def look(self) -> None:
        """Something was started or stopped."""

    async def drained(self, container: str, timeout_secs: float) -> bool:
        """Wait until a stopped container's last words are in the log."""


class Executor:
    """Brings one engine to hold what the master wants.

    Args:
        facts: asked at each shard: interfaces come and go.
        at_rest: done after each shard; by default memory is given back, which costs what the whole process holds.
    """

    def __init__(
        self,
        host: str,
        engine: Engine,
        *,
        state: StateFile,
        host_keys: HostKeys,
        facts: Callable[[], NetworkFacts],
        consoles: Consoles,
        guard: Guarding,
        at_rest: Callable[[], None] = give_back,
    ) -> None:
        self._host = host
        self._engine = engine
        self._state = state
        self._host_keys = host_keys
        self._facts = facts
        self._consoles = consoles
        self._guard = guard
        self._at_rest = at_rest
        self._contested: dict[str, str] = {}
        self._turn = asyncio.Lock()
        # For the steps, for a question to the LAN beside them, and for what makes host keys.
        self._threads = ThreadPoolExecutor(max_workers=AT_ONCE + 2, thread_name_prefix="engine")

    @property
    def generation(self) -> int:
        """The newest generation that this worker was told."""
        return self._state.state.generation

    @property
    def shard(self) -> Shard | None:
        """What shall run here, as last told."""
        return self._state.state.shard

    @property
    def assignments(self) -> Mapping[str, Assignment]:
        """The addresses of this worker's deckies."""
        return self._state.state.previous()

    @property
    def contested(self) -> Mapping[str, str]:
        """The deckies whose address another machine was seen to have, with its MAC."""
        return dict(self._contested)

    @property
    def busy(self) -> bool:
        """Whether a shard is being applied now."""
        return self._turn.locked()

    def close(self) -> None:
        """Let go of the threads and the connection to the engine."""
        self._host_keys.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._engine.close()

    async def apply(self, shard: Shard) -> ShardReport:
        """Make the worker run what the shard says.

        Raises:
            Conflict: the worker knows a newer generation.
            ConfigError: the worker's LAN is not configured.
            Unavailable: the engine does not answer, or the state cannot be kept.
        """
        async with self._turn:
            check_generation(shard, self.generation)
            facts = self._lan(shard)
            self._state.save(shard, self.assignments, facts)
            sets = sorted({image_set(spec) for spec in shard.deckies})
            before = world = await self._call(self._engine.world, sets)
            enquiry = self._enquiry(facts, sets)
            keys = self._key_making(shard, world)
            try:
                attempt = 0
                while True:
                    attempt += 1
                    plan = await self._plan(shard, facts, world, enquiry)
                    self._state.save(shard, plan.assignments, facts)
                    log.info(
                        "shard.planned", generation=shard.generation, steps=len(plan.steps), refused=len(plan.refused)
                    )
                    failures = await self._do(plan, shard.generation, facts, enquiry, keys)
                    self._consoles.look()
                    world = await self._call(self._engine.world, sets)
                    await self._look_around(plan, enquiry)
                    await self._keep_guarded(plan, facts, world)
                    if attempt == ATTEMPTS or not self._contested.keys() - plan.refused.keys():
                        break
            finally:
                await keys.end()
            self._at_rest()
            return report(self._host, shard, plan, failures, self._contested, before=before, after=world)

    async def look_around(self) -> None:
        """Ask the LAN whether somebody else has the address of a decky that runs; a busy worker asks for itself.

        Raises:
            DecnetError: it cannot be asked.
        """
        if self.busy or self.shard is None:
            return
        async with self._turn:
            sets = sorted({image_set(spec) for spec in self.shard.deckies})
            facts, world = self._facts(), await self._call(self._engine.world, sets)
            running = {decky.name for decky in world.deckies if decky.running} & self.assignments.keys()
            held = {name: given for name, given in self.assignments.items() if name in running}
            enquiry = self._enquiry(facts, sets)
            await enquiry.ask([given.ip for given in held.values()], ours=True)
            self._contest(enquiry.claimed(held))

    def _lan(self, shard: Shard) -> NetworkFacts:
        """Make out the LAN; where that cannot be done, the last one does for taking all deckies away."""
        try:
            return self._facts()
        except ConfigError:
            known = self._state.state.lan
            if shard.deckies or known is None:
                raise
            return NetworkFacts(known.interface, known.subnet, known.gateway)

    def _enquiry(self, facts: NetworkFacts, sets: Sequence[tuple[str, ...]]) -> Enquiry:
        def ask(addresses: Sequence[IPv4Address]) -> Awaitable[list[Claim]]:
            return self._call(self._engine.probe, facts.interface, addresses, sets)

        return Enquiry(ask, [given.mac for given in self.assignments.values()])

    def _key_making(self, shard: Shard, world: World) -> KeyMaking:
        there = {decky.name for decky in world.deckies if decky.complete}
        wanted = {spec.name: None for spec in shard.deckies if _has_host_keys(spec) and spec.name not in there}
        return KeyMaking(self._host_keys, tuple(wanted), self._threads)

    async def _plan(self, shard: Shard, facts: NetworkFacts, world: World, enquiry: Enquiry) -> Plan:
        previous, seed = self.assignments, bytes.fromhex(self._state.state.seed)
        plan = await enquiry.settle(
            lambda claims, withheld: make_plan(shard, facts, world, previous, seed, claims=claims, withheld=withheld),
            facts,
            seed,
            self._contested.keys(),
        )
        for name, given in plan.assignments.items():
            if given.moved_from is not None and given != previous.get(name):
                log.info(
                    "decky.relocalised",
                    decky=name,
                    wanted=str(given.moved_from),
                    address=str(given.ip),
                    reason=given.moved_because,
                )
        return plan

    async def _look_around(self, plan: Plan, enquiry: Enquiry) -> None:
        """See whether what was just started is contested, and what could not be started because it was."""
        started = [plan.assignments[step.name].ip for step in plan.steps if isinstance(step, StartDecky)]
        try:
            await enquiry.ask(started, ours=True)
        except DecnetError as error:  # they run; the next look tells
            log.warning("lan.probe_failed", reason=error.message, advice=error.advice)
        self._contest(enquiry.claimed(plan.assignments))

    def _contest(self, claimed: Mapping[str, Claim]) -> None:
        for name, claim in claimed.items():
            if self._contested.get(name) != claim.mac:
                log.warning("decky.contested", decky=name, address=str(claim.address), mac=claim.mac)
        self._contested = {name: claim.mac for name, claim in claimed.items()}

    async def _unguarded(self, plan: Plan, facts: NetworkFacts) -> dict[str, str]:
        """Have the kernel keep every decky from attacking before the first runs; return who must not start, and why."""
        starting = [step.name for step in plan.steps if isinstance(step, StartDecky)]
        if starting:
            try:
                await self._guard.hold(facts.interface, _pairs(plan, plan.assignments))
            except DecnetError as error:
                log.warning("decky.unguarded", reason=error.message, advice=error.advice)
                return dict.fromkeys(starting, f"{error.message}. {error.advice}")
        return {}

    async def _keep_guarded(self, plan: Plan, facts: NetworkFacts, world: World) -> None:
        """Take away what those may say who are gone."""
        try:
            await self._guard.keep(facts.interface, _pairs(plan, {decky.name for decky in world.deckies}))
        except DecnetError as error:
            log.warning("decky.unguarded", reason=error.message, advice=error.advice)

    async def _ask_before_the_start(
        self, names: Sequence[str], plan: Plan, enquiry: Enquiry, failures: dict[str, str]
    ) -> Sequence[str]:
        """Ask for the addresses of deckies that are to be started now; return whose are still free."""
        try:
            await enquiry.ask([plan.assignments[name].ip for name in names])
        except DecnetError as error:
            log.warning("lan.probe_failed", reason=error.message, advice=error.advice)
            failures.update(dict.fromkeys(names, f"{error.message}. {error.advice}"))
        for name, claim in enquiry.claimed(plan.assignments).items():
            failures.setdefault(name, f"{claim.mac} on the LAN claims {claim.address}")
        return [name for name in names if name not in failures]

    async def _do(
        self, plan: Plan, generation: int, facts: NetworkFacts, enquiry: Enquiry, keys: KeyMaking
    ) -> dict[str, str]:
        failures = Failures()
        failures.of_deckies.update(await self._unguarded(plan, facts))

        async def do(step: Step) -> bool:
            if failures.stops(step):
                return False
            try:
                await self._step(step, generation, facts)
            except DecnetError as error:
                log.warning("step.failed", step=type(step).__name__, reason=error.message, advice=error.advice)
                failures.add(step, f"{error.message}. {error.advice}")
                return False
            return True

        for step in plan.steps:
            if not isinstance(step, CreateDecky | StartDecky):
                await do(step)
        await BringingUp(
            [step for step in plan.steps if isinstance(step, CreateDecky)],
            [step for step in plan.steps if isinstance(step, StartDecky) if step.name not in failures.of_deckies],
            keyed=keys.made,
            do=do,
            ask=lambda names: self._ask_before_the_start(names, plan, enquiry, failures.of_deckies),
        ).run()
        return failures.of_deckies

    async def _step(self, step: Step, generation: int, facts: NetworkFacts) -> None:
        match step:
            case CreateNetwork(key):
                await self._call(self._engine.create_network, facts, key)
                log.info("network.created", interface=facts.interface)
            case BuildImage(services):
                await self._call(self._engine.build_image, services)
            case RemoveDecky(name, container):
                await self._call(self._engine.stop, container)
                self._consoles.look()
                if not await self._consoles.drained(container, DRAIN_SECS):
                    log.error("console.lines_lost", decky=name, reason="its last words were not collected in time")
                await self._call(self._engine.remove, container)
                log.info("decky.removed", decky=name)
            case CreateDecky(decky):
                await self._call(self._engine.create, decky, generation, partial(self._furnish, decky, facts))
                log.info("decky.created", decky=decky.spec.name, address=str(decky.ip))
            case StartDecky(name):
                await self._call(self._engine.start, name)
                self._consoles.look()
                log.info("decky.started", decky=name)

    def _furnish(self, decky: PlacedDecky, facts: NetworkFacts, image: Image) -> list[ArchiveEntry]:
        spec = decky.spec
        hashes = {account.user: hash_password(account.password) for account in spec.accounts}
        keys = self._host_keys.of(spec.name) if _has_host_keys(spec) else {}
        site = Site(decky.ip, facts.subnet, facts.gateway, local_zone())
        return furnish(image, spec.accounts, hashes, keys, int(time.time()), life=life_of(spec, site))

    async def _call(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._threads, lambda: function(*arguments, **options))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            # No thread works on when a shard has ended: the next one finds what there is.
            await asyncio.wait({call})
            call.exception()
            raise


def _has_host_keys(spec: DeckySpec) -> bool:
    return "ssh" in spec.services


def _pairs(plan: Plan, names: Collection[str]) -> list[Pair]:
    given = {name: each for name, each in plan.assignments.items() if name in names}
    return [Pair(decky=name, mac=each.mac, ip=each.ip) for name, each in given.items()]
