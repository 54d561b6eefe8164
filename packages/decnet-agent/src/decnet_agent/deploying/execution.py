"""Apply a shard: look, plan, do the steps one after the other, look again, report.

One shard at a time. What is wanted is on disk before the first step; a step that fails is that decky's failure and
no one else's, and the report says why. A worker that has something newer refuses. Applying again mends what failed.

The engine's calls block and run one at a time in a thread of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

import structlog

from decnet_agent.deploying.planning import (
    Assignment,
    BuildImage,
    CreateDecky,
    CreateNetwork,
    ExistingDecky,
    NetworkFacts,
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
from decnet_agent.deploying.state import StateFile
from decnet_agent.engine.client import Engine
from decnet_agent.furnishing.accounts import ArchiveEntry, Image, furnish
from decnet_agent.furnishing.host_keys import HostKeys
from decnet_agent.furnishing.passwords import hash_password
from decnet_agent.memory import give_back
from decnet_core.errors import DecnetError
from decnet_core.fleet import DeckyPhase, DeckySpec, DeckyState, Shard, ShardReport

DRAIN_SECS = 15.0
"""How long the last words of a stopped container may take into the log; a full disk takes longer, and is waited out
no further: the operator asked for the decky to go."""

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
    ) -> None:
        self._host = host
        self._engine = engine
        self._state = state
        self._host_keys = host_keys
        self._facts = facts
        self._consoles = consoles
        self._turn = asyncio.Lock()
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

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
    def busy(self) -> bool:
        """Whether a shard is being applied now."""
        return self._turn.locked()

    def close(self) -> None:
        """Let go of the thread and the connection to the engine."""
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
            facts = self._facts()
            state = self._state.state
            self._state.save(shard, state.previous())
            sets = sorted({image_set(spec) for spec in shard.deckies})
            before = await self._call(self._engine.world, sets)
            plan = make_plan(shard, facts, before, state.previous(), bytes.fromhex(state.seed))
            self._state.save(shard, plan.assignments)
            log.info("shard.planned", generation=shard.generation, steps=len(plan.steps), refused=len(plan.refused))
            failures = await self._do(plan, shard.generation, facts)
            self._consoles.look()
            after = await self._call(self._engine.world, sets)
            give_back()
            return _report(self._host, shard, plan, failures, before=before, after=after)

    async def _do(self, plan: Plan, generation: int, facts: NetworkFacts) -> dict[str, str]:
        failures: dict[str, str] = {}
        failed_sets: dict[tuple[str, ...], str] = {}
        network_failure = ""
        for step in plan.steps:
            try:
                if isinstance(step, StartDecky | RemoveDecky) and step.name in failures:
                    continue
                if isinstance(step, CreateDecky):
                    name = step.decky.spec.name
                    because = failures.get(name) or network_failure or failed_sets.get(image_set(step.decky.spec))
                    if because:
                        failures[name] = because
                        continue
                await self._step(step, generation, facts)
            except DecnetError as error:
                reason = f"{error.message}. {error.advice}"
                log.warning("step.failed", step=type(step).__name__, reason=error.message, advice=error.advice)
                match step:
                    case CreateNetwork():
                        network_failure = reason
                    case BuildImage(services):
                        failed_sets[services] = reason
                    case CreateDecky(decky):
                        failures[decky.spec.name] = reason
                    case RemoveDecky() | StartDecky():
                        failures[step.name] = reason
        return failures

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
                await self._call(self._engine.create, decky, generation, lambda image: self._furnish(decky, image))
                log.info("decky.created", decky=decky.spec.name, address=str(decky.ip))
            case StartDecky(name):
                await self._call(self._engine.start, name)
                self._consoles.look()
                log.info("decky.started", decky=name)

    def _furnish(self, decky: PlacedDecky, image: Image) -> list[ArchiveEntry]:
        spec = decky.spec
        hashes = {account.user: hash_password(account.password) for account in spec.accounts}
        keys = self._host_keys.of(spec.name) if "ssh" in spec.services else {}
        return furnish(image, spec.accounts, hashes, keys, int(time.time()))

    def _call(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> Awaitable[T]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._threads, lambda: function(*arguments, **options))


def _report(
    host: str, shard: Shard, plan: Plan, failures: dict[str, str], *, before: World, after: World
) -> ShardReport:
    there = {decky.name: decky for decky in after.deckies if decky.complete}
    states: dict[str, DeckyState] = {}
    for spec in shard.deckies:
        if spec.name not in states:
            error = plan.refused.get(spec.name) or failures.get(spec.name)
            states[spec.name] = _state(spec, plan, there.get(spec.name), error)
    gone = {decky.name for decky in before.deckies} - {decky.name for decky in after.deckies}
    return ShardReport(
        host=host, generation=shard.generation, deckies=tuple(states.values()), removed=tuple(sorted(gone))
    )


def _state(spec: DeckySpec, plan: Plan, existing: ExistingDecky | None, error: str | None) -> DeckyState:
    given = plan.assignments.get(spec.name)
    running = existing is not None and existing.running
    if error is None and not running:
        error = "its container ended as soon as it was started; `docker logs` on the worker shows its last words"
    return DeckyState(
        name=spec.name,
        phase=DeckyPhase.FAILED if error is not None else DeckyPhase.RUNNING,
        services=spec.services,
        ip=None if given is None else given.ip,
        mac=None if given is None else given.mac,
        container=None if existing is None else existing.container,
        error=error,
    )
