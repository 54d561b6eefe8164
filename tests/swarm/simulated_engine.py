"""A Docker engine without Docker: what the agent's executor and its watch ask of one, in memory.

With it the real agent (its routes, its planner, its executor, its state on the disk) runs where there is no engine. It
does not look into what is put into a container; `tests/agent/test_deploy` does, on a real engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from decnet_agent.app import Agent
from decnet_agent.containment.channel import Unguarded
from decnet_agent.deploying.execution import Executor
from decnet_agent.deploying.lan import Claim, NetworkFacts
from decnet_agent.deploying.planning import ExistingDecky, PlacedDecky, World
from decnet_agent.deploying.state import StateFile
from decnet_agent.engine.labels import LABEL_DECKY
from decnet_agent.engine.watch import SeenContainer
from decnet_core.errors import NotFound, Unavailable

FACTS = NetworkFacts("lan0", IPv4Network("10.20.0.0/16"))


@dataclass
class _Container:
    id: str
    name: str
    fingerprint: str
    running: bool = False


class SimulatedEngine:
    """Stands where `engine.client.Engine` does, and where `engine.watch.EngineWatch` does."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.answers = True
        self.strangers: dict[IPv4Address, str] = {}
        self.asking: dict[IPv4Address, str] = {}  # heard while the next probe is made, and no more
        self.probed: list[tuple[IPv4Address, ...]] = []
        self._containers: dict[str, _Container] = {}
        self._network_key: str | None = None
        self._images: frozenset[tuple[str, ...]] = frozenset()
        self._made = 0

    def end(self, name: str) -> None:
        self._containers[name].running = False

    def world(self, service_sets: Sequence[tuple[str, ...]]) -> World:
        self._answer()
        return World(
            network_key=self._network_key,
            image_keys={services: "+".join(services) for services in service_sets},
            images=self._images,
            deckies=[
                ExistingDecky(one.name, one.id, one.fingerprint, complete=True, running=one.running)
                for one in self._containers.values()
            ],
        )

    def probe(self, _interface: str, addresses: Sequence[IPv4Address], _sets: Sequence[tuple[str, ...]]) -> list[Claim]:
        self._answer()
        self.probed.append(tuple(addresses))
        asking, self.asking = self.asking, {}
        return [
            Claim(address, mac, has=has)
            for address in addresses
            for has, macs in ((True, self.strangers), (False, asking))
            if address in macs and (mac := macs[address])
        ]

    def create_network(self, _facts: NetworkFacts, key: str) -> None:
        self._answer()
        self._network_key = key

    def build_image(self, services: tuple[str, ...]) -> None:
        self._answer()
        self._images |= {services}

    def create(self, decky: PlacedDecky, _generation: int, _furnished: Callable) -> str:
        self._answer()
        self._refuse(decky.spec.name)
        self._made += 1
        made = _Container(f"{self._made:064x}", decky.spec.name, decky.fingerprint)
        assert decky.spec.name not in self._containers, "an engine refuses a name that is taken"
        self._containers[decky.spec.name] = made
        return made.id

    def start(self, name: str) -> None:
        self._answer()
        self._refuse(name)
        self._containers[name].running = True

    def stop(self, container: str) -> None:
        self._answer()
        for one in self._containers.values():
            if one.id == container:
                one.running = False

    def remove(self, container: str) -> None:
        self._answer()
        self._containers = {name: one for name, one in self._containers.items() if one.id != container}

    def close(self) -> None:
        pass

    async def version(self) -> str:
        self._answer()
        return "20.10.24"

    async def containers(self, label: str) -> list[SeenContainer]:
        self._answer()
        assert label == LABEL_DECKY
        return [
            SeenContainer(one.id, f"decky-{one.name}", one.running, {LABEL_DECKY: one.name}, "image")
            for one in self._containers.values()
        ]

    def _answer(self) -> None:
        if not self.answers:
            raise Unavailable("No Docker engine answers", "Start Docker.")

    def _refuse(self, name: str) -> None:
        if name in self.broken:
            raise NotFound("the image is missing", "Deploy again.")


def real_agent(host: str, engine: SimulatedEngine, folder: Path, facts: NetworkFacts = FACTS) -> Agent:
    """Wire the agent as `decnet_agent.app` does, on an engine in memory; close its executor at the end."""
    executor = Executor(
        host,
        engine,  # type: ignore[arg-type]
        state=StateFile(folder / "state"),
        host_keys=_NoHostKeys(),  # type: ignore[arg-type]  # nothing is furnished, and each set takes half a second
        facts=lambda: facts,
        consoles=_NoConsoles(),
        guard=Unguarded(),
        at_rest=lambda: None,  # the memory of this process is the tests', and grows
    )
    return Agent(host, executor, engine, _NothingWritten())  # type: ignore[arg-type]


class _NoHostKeys:
    def make(self, deckies: Sequence[str]) -> Sequence[str]:
        return deckies

    def stop(self) -> None:
        pass


class _NoConsoles:
    def look(self) -> None:
        pass

    async def drained(self, _container: str, _timeout_secs: float) -> bool:
        return True


class _NothingWritten:
    written = 0
