"""Turn what the master wants and what runs now into the steps between them.

Pure: a shard, the worker's network, what the engine holds, and the addresses given before go in; a `Plan` comes out.

Invariants
- Applying a plan and planning again gives no steps; so does a crash after any step, a new plan, and its steps.
- Addresses and MACs are what `relocalising` says.
- Removals come first: an address may move from one decky to another within one plan.
- A container is made before it is started, and what takes long is over when its address is asked for the last time;
  what belongs to different deckies may overlap (`bringing_up`).
- A decky that cannot be placed is refused with a reason and does not keep the others from running. One that is withheld
  is left as it is, container and all.

A container that carries another `fingerprint` than the decky wanted is replaced, never mended. One that was not
completed (the agent died while it prepared it) is removed and made again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import IPv4Address
from types import MappingProxyType

from decnet_agent.deploying.lan import Claim, NetworkFacts
from decnet_agent.deploying.relocalising import Assignment, relocalise
from decnet_core.errors import Conflict
from decnet_core.fleet import DeckySpec, Shard


@dataclass(frozen=True, slots=True)
class PlacedDecky:
    """A decky with nothing left to choose."""

    spec: DeckySpec
    ip: IPv4Address
    mac: str
    image_key: str
    network_key: str

    @property
    def fingerprint(self) -> str:
        """What a container is made of; another one needs another container. Holds no password in clear."""
        spec = self.spec.model_dump_json(include={"name", "services", "accounts", "seed", "resets"})
        text = "\0".join((spec, str(self.ip), self.mac, self.image_key, self.network_key))
        return blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class ExistingDecky:
    """A container of ours, as the engine has it. `complete` is False while it is being prepared."""

    name: str
    container: str
    fingerprint: str
    complete: bool
    running: bool


@dataclass(frozen=True, slots=True)
class CreateNetwork:
    """Make the network that the deckies hang on, in place of one that no longer fits."""

    key: str


@dataclass(frozen=True, slots=True)
class BuildImage:
    """Make the image of a set of services."""

    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RemoveDecky:
    """Remove a container; the decky's name says whose it was."""

    name: str
    container: str


@dataclass(frozen=True, slots=True)
class CreateDecky:
    """Make and prepare a container."""

    decky: PlacedDecky


@dataclass(frozen=True, slots=True)
class StartDecky:
    """Start a prepared container."""

    name: str


Step = CreateNetwork | BuildImage | RemoveDecky | CreateDecky | StartDecky


@dataclass(frozen=True, slots=True)
class World:
    """What the engine holds now.

    Attributes:
        network_key: what the present network was made of; None when there is none.
        image_keys: for each set of services that can be built here, what its image is or would be made of.
        images: the sets whose image is there with just that key.
    """

    network_key: str | None = None
    image_keys: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    images: frozenset[tuple[str, ...]] = frozenset()
    deckies: Sequence[ExistingDecky] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The way from the world to the shard.

    Attributes:
        steps: in order.
        assignments: the addresses that hold from now on.
        refused: who cannot be placed, with the reason.
        homeless: those of them for whom no address is left.
    """

    steps: tuple[Step, ...]
    assignments: Mapping[str, Assignment]
    refused: Mapping[str, str]
    homeless: frozenset[str] = frozenset()


def check_generation(shard: Shard, known: int) -> None:
    """Refuse desired state that is older than what this worker was told already.

    Raises:
        Conflict: it is older.
    """
    if shard.generation < known:
        raise Conflict(
            f"Generation {shard.generation} is older than {known}, which this worker has",
            "Deploy again: the master counts generations up; restore its database if it went back.",
        )


def image_set(spec: DeckySpec) -> tuple[str, ...]:
    """Return the set of services that an image is composed of: sorted, each once."""
    return tuple(sorted(set(spec.services)))


def network_key(facts: NetworkFacts) -> str:
    """Return what the network is made of."""
    return f"{facts.interface} {facts.subnet} {facts.gateway or '-'}"


def make_plan(
    shard: Shard,
    facts: NetworkFacts,
    world: World,
    previous: Mapping[str, Assignment],
    seed: bytes,
    *,
    claims: Collection[Claim] = (),
    withheld: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """Plan the way from the world to the shard.

    Args:
        shard: what shall run; its generation was checked by `check_generation`.
        facts: the worker's LAN.
        world: what the engine holds.
        previous: addresses given before.
        seed: the worker's secret, at most 64 bytes.
        claims: what was heard of addresses on the LAN.
        withheld: deckies that are not touched now, with the reason.
    """
    refused: dict[str, str] = {}
    specs: dict[str, DeckySpec] = {}
    for spec in shard.deckies:
        if spec.name in specs:
            refused[spec.name] = "two deckies of the shard have this name; the first is taken"
            continue
        specs[spec.name] = spec
    buildable: dict[str, DeckySpec] = {}
    for name, spec in specs.items():
        if image_set(spec) in world.image_keys:
            buildable[name] = spec
        else:
            refused[name] = (
                f"there is no image for {', '.join(image_set(spec))} and nothing to build one from; "
                "`decnet-agent doctor` says what is missing"
            )
    given = relocalise(buildable, facts, previous, seed, claims)
    assignments = {**given.assignments, **_held(given.assignments, withheld, previous)}
    refused.update(given.refused)
    refused.update({name: reason for name, reason in withheld.items() if name in assignments})
    key = network_key(facts)
    placed = {
        name: PlacedDecky(spec, assignments[name].ip, assignments[name].mac, world.image_keys[image_set(spec)], key)
        for name, spec in buildable.items()
        if name in assignments
    }
    steps = tuple(_steps(placed, key, world, withheld.keys()))
    return Plan(steps, assignments, refused, frozenset(given.refused))


def _held(
    given: Mapping[str, Assignment], withheld: Collection[str], previous: Mapping[str, Assignment]
) -> dict[str, Assignment]:
    """Return what withheld deckies have, where that is another address than the one that they would get."""
    taken = {each.ip for name, each in given.items() if name not in withheld}
    return {name: previous[name] for name in withheld if name in previous and previous[name].ip not in taken}


def _steps(placed: Mapping[str, PlacedDecky], key: str, world: World, withheld: Collection[str]) -> Iterator[Step]:
    kept: dict[str, ExistingDecky] = {}
    for existing in world.deckies:
        if existing.name in withheld:
            continue
        wanted = placed.get(existing.name)
        fits = wanted is not None and existing.complete and existing.fingerprint == wanted.fingerprint
        if fits and existing.name not in kept:
            kept[existing.name] = existing
        else:
            yield RemoveDecky(existing.name, existing.container)
    due = {name: decky for name, decky in placed.items() if name not in withheld}
    if due and world.network_key != key:
        yield CreateNetwork(key)
    made = {name: decky for name, decky in due.items() if name not in kept}
    for services in sorted({image_set(decky.spec) for decky in made.values()} - world.images):
        yield BuildImage(services)
    for decky in made.values():
        yield CreateDecky(decky)
    for name in due:
        if name in made or not kept[name].running:
            yield StartDecky(name)
