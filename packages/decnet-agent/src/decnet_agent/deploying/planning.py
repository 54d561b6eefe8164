"""Turn what the master wants and what runs now into the steps between them.

Pure: a shard, the worker's network, what the engine holds, and the addresses given before go in; a `Plan` comes out.

Invariants
- Applying a plan and planning again gives no steps; so does a crash after any step, a new plan, and its steps.
- No two deckies get one address or one MAC; none gets the network's, the broadcast, the gateway's or the host's own.
- An address once given stays with the decky's name while it fits. One that the master names and that fits is taken;
  one that does not fit this worker's LAN is replaced.
- Removals come first: an address may move from one decky to another within one plan.
- A decky that cannot be placed is refused with a reason and does not keep the others from running.

A container that carries another `fingerprint` than the decky wanted is replaced, never mended. One that was not
completed (the agent died while it prepared it) is removed and made again.

MAC addresses look like those of real makers and are derived from the worker's secret seed, so that nobody on the LAN
can compute them from a name; they are not derived from the address (which would be a tell).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network

from decnet_core.errors import Conflict
from decnet_core.fleet import DeckySpec, Shard

# Makers of NICs in ordinary servers and desktops: Dell, HP, Intel, Supermicro, Lenovo, Fujitsu.
_MAKERS = ("b0:83:fe", "3c:d9:2b", "a0:36:9f", "ac:1f:6b", "6c:0b:84", "90:1b:0e")


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """The worker's LAN: what deckies join, and what they must not take."""

    interface: str
    subnet: IPv4Network
    gateway: IPv4Address | None = None
    ip_range: IPv4Network | None = None
    own: frozenset[IPv4Address] = frozenset()

    def usable(self, address: IPv4Address) -> bool:
        """Tell whether a decky may have the address."""
        return address in self.subnet and not self._is_reserved(address)

    @property
    def router(self) -> IPv4Address | None:
        """The address that Docker gives to the router of the network, whether there is one or not."""
        if self.gateway is not None or self.subnet.num_addresses == 1:
            return self.gateway
        return self.subnet[0 if self.subnet.prefixlen == 31 else 1]

    def free_addresses(self) -> Iterator[IPv4Address]:
        """Every address that a decky without one may get, lowest first."""
        for address in self.ip_range or self.subnet:
            if not self._is_reserved(address):
                yield address

    def _is_reserved(self, address: IPv4Address) -> bool:
        point_to_point = self.subnet.prefixlen >= 31  # RFC 3021: no network and no broadcast address
        ends = () if point_to_point else (self.subnet.network_address, self.subnet.broadcast_address)
        return address in ends or address == self.router or address in self.own


@dataclass(frozen=True, slots=True)
class Assignment:
    """The address and MAC that a decky's name holds on this worker."""

    ip: IPv4Address
    mac: str


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
        spec = self.spec.model_dump_json(include={"name", "services", "accounts"})
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
    """The steps, in order; the addresses that hold from now on; and who cannot be placed, with the reason."""

    steps: tuple[Step, ...]
    assignments: Mapping[str, Assignment]
    refused: Mapping[str, str]


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


def make_plan(shard: Shard, facts: NetworkFacts, world: World, previous: Mapping[str, Assignment], seed: bytes) -> Plan:
    """Plan the way from the world to the shard.

    Args:
        shard: what shall run; its generation was checked by `check_generation`.
        facts: the worker's LAN.
        world: what the engine holds.
        previous: addresses given before, also those of deckies that are gone.
        seed: the worker's secret, at most 64 bytes.
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
    assignments = _assign(buildable, facts, previous, seed)
    for name in buildable.keys() - assignments.keys():
        refused[name] = f"no address is left in {facts.ip_range or facts.subnet}"
    key = network_key(facts)
    placed = {
        name: PlacedDecky(spec, assignments[name].ip, assignments[name].mac, world.image_keys[image_set(spec)], key)
        for name, spec in buildable.items()
        if name in assignments
    }
    return Plan(tuple(_steps(placed, key, world)), assignments, refused)


def _steps(placed: Mapping[str, PlacedDecky], key: str, world: World) -> Iterator[Step]:
    kept: dict[str, ExistingDecky] = {}
    for existing in world.deckies:
        wanted = placed.get(existing.name)
        fits = wanted is not None and existing.complete and existing.fingerprint == wanted.fingerprint
        if fits and existing.name not in kept:
            kept[existing.name] = existing
        else:
            yield RemoveDecky(existing.name, existing.container)
    if placed and world.network_key != key:
        yield CreateNetwork(key)
    missing = {image_set(decky.spec) for name, decky in placed.items() if name not in kept} - world.images
    for services in sorted(missing):
        yield BuildImage(services)
    for name, decky in placed.items():
        if name not in kept:
            yield CreateDecky(decky)
        if name not in kept or not kept[name].running:
            yield StartDecky(name)


def _assign(
    specs: Mapping[str, DeckySpec], facts: NetworkFacts, previous: Mapping[str, Assignment], seed: bytes
) -> dict[str, Assignment]:
    addresses = _assign_addresses(specs, facts, previous)
    macs: dict[str, str] = {}
    for name, spec in specs.items():
        if spec.mac is not None and spec.mac not in macs.values():
            macs[name] = spec.mac
    taken = set(macs.values())
    for name in addresses:
        if name in macs:
            continue
        before = previous.get(name)
        mac = before.mac if before is not None and before.mac not in taken else _new_mac(name, seed, taken)
        macs[name] = mac
        taken.add(mac)
    return {name: Assignment(ip, macs[name]) for name, ip in addresses.items()}


def _assign_addresses(
    specs: Mapping[str, DeckySpec], facts: NetworkFacts, previous: Mapping[str, Assignment]
) -> dict[str, IPv4Address]:
    chosen: dict[str, IPv4Address] = {}
    taken: set[IPv4Address] = set()

    def take(name: str, address: IPv4Address) -> None:
        if name not in chosen and address not in taken and facts.usable(address):
            chosen[name] = address
            taken.add(address)

    for name, spec in specs.items():
        if spec.ip is not None:
            take(name, spec.ip)
    for name in specs:
        if name in previous:
            take(name, previous[name].ip)
    free = facts.free_addresses()
    for name in specs:
        while name not in chosen:
            address = next(free, None)
            if address is None:
                break
            take(name, address)
    # in the shard's order, so that equal inputs give equal plans to the letter
    return {name: chosen[name] for name in specs if name in chosen}


def _new_mac(name: str, seed: bytes, taken: set[str]) -> str:
    attempt = 0
    while True:
        digest = blake2b(f"{name}\0{attempt}".encode(), key=seed, digest_size=4).digest()
        mac = ":".join((_MAKERS[digest[0] % len(_MAKERS)], *(f"{byte:02x}" for byte in digest[1:])))
        if mac not in taken:
            return mac
        attempt += 1
