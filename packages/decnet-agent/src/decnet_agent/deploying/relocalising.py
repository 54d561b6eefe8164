"""Give each decky of a shard an address and a MAC of this worker's LAN.

Pure: what is wanted, the LAN, what was given before and what was heard on the LAN go in, and the worker's secret seed,
from which all that looks random is derived; equal inputs give equal results.

Invariants
- No two deckies get one address or one MAC. Every address lies in the subnet and is nobody else's: not the network's,
  the broadcast, the router's, the host's, a name server's, an excluded one, nor one that somebody on the LAN claims.
- An address that the master names and that fits is taken, so a fleet made for this one host is left as it is. One that
  does not fit is replaced by one from the worker's range, and the reason goes with it.
- A decky for which nothing is left is refused with a reason, and takes nothing from the others.

Who has what, the first that applies: a machine that changes its address ends what an attacker does on it, and is a
tell, so a decky moves when it is told to or must, and never because something got better.
1. A decky that has the address which the master names keeps it, whoever else it is named for.
2. An address that the master names anew (the decky is new here, or was wanted with another one or none) is taken; from
   a decky, too, that has it without having been told to.
3. Every other decky keeps the address that it has while that fits; also when the one that the master named, and that
   could not be had, gets free. Who wants it there all the same names another or none in between, or tears it down and
   deploys it again.
4. One that must move takes the address that the master names if it can be had by now, and else any that is free.
Among equals the shard's order decides. A decky that the shard does not name is forgotten, and its address free.

MAC addresses are the master's, who names one for every decky, no two alike in its fleet. For a decky without one the
worker draws: it looks like one of a real maker, and is derived from the worker's secret seed, so that nobody on the LAN
can compute it from a name, and not from the address (which would be a tell). One that was heard on the LAN or is
another decky's is not drawn; of workers that draw, each from 10^8, nobody compares what they drew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from ipaddress import IPv4Address

from decnet_agent.deploying.lan import SMALLEST_PREFIX, Claim, NetworkFacts
from decnet_core.fleet import DeckySpec

# Makers of NICs in ordinary servers and desktops: Dell, HP, Intel, Supermicro, Lenovo, Fujitsu.
_MAKERS = ("b0:83:fe", "3c:d9:2b", "a0:36:9f", "ac:1f:6b", "6c:0b:84", "90:1b:0e")


@dataclass(frozen=True, slots=True)
class Assignment:
    """The address and MAC that a decky's name holds on this worker.

    Attributes:
        named: the address that the master named when this one was given or kept; None if it named none.
        moved_from: the address that was wanted, by the master or because the decky had it, and that it has not.
        moved_because: why.
    """

    ip: IPv4Address
    mac: str
    named: IPv4Address | None = None
    moved_from: IPv4Address | None = None
    moved_because: str | None = None


@dataclass(frozen=True, slots=True)
class Relocalised:
    """Who has which address, in the order of the shard; and who has none, with the reason."""

    assignments: Mapping[str, Assignment]
    refused: Mapping[str, str]


def relocalise(
    specs: Mapping[str, DeckySpec],
    facts: NetworkFacts,
    previous: Mapping[str, Assignment],
    seed: bytes,
    claims: Iterable[Claim] = (),
) -> Relocalised:
    """Give every decky its address and MAC.

    Args:
        specs: what is wanted, by name.
        facts: the LAN.
        previous: what the names had before; those that are not wanted any more do not count.
        seed: the worker's secret, at most 64 bytes.
        claims: what others on the LAN were heard to say; never what our own deckies did.
    """
    if facts.subnet.prefixlen > SMALLEST_PREFIX:
        return Relocalised({}, dict.fromkeys(specs, f"{facts.subnet} has no room for a decky"))
    claims = tuple(claims)
    claimed = {claim.address: claim for claim in reversed(claims)}
    giving = _Giving(facts, claimed)
    for name, address in _in_turn(specs, previous):
        giving.give(name, address)
    giving.give_any([name for name in specs if name not in giving.given], seed)
    macs = _macs(specs, giving.given, previous, seed, {claim.mac for claim in claims})
    assignments = {
        # in the shard's order, so that equal inputs give equal plans to the letter
        name: _assignment(spec, giving, name, macs[name], previous.get(name))
        for name, spec in specs.items()
        if name in giving.given
    }
    full = f"no address is left for it in {facts.ip_range or facts.subnet}: {giving.free} are free for deckies, "
    return Relocalised(
        assignments, {name: f"{full}{len(specs)} are wanted" for name in specs if name not in assignments}
    )


def _in_turn(specs: Mapping[str, DeckySpec], previous: Mapping[str, Assignment]) -> Iterator[tuple[str, IPv4Address]]:
    """Tell who asks for which address, in the order in which they are served; see the module."""
    named = {name: spec.ip for name, spec in specs.items() if spec.ip is not None}
    had = {name: previous[name] for name in specs if name in previous}
    yield from ((name, each.ip) for name, each in had.items() if named.get(name) == each.ip)
    yield from ((name, address) for name, address in named.items() if name not in had or had[name].named != address)
    yield from ((name, each.ip) for name, each in had.items())
    yield from named.items()


class _Giving:
    """Addresses on their way to names."""

    def __init__(self, facts: NetworkFacts, claimed: Mapping[IPv4Address, Claim]) -> None:
        self._facts = facts
        self._claimed = claimed
        self._holders: dict[IPv4Address, str] = {}
        self.given: dict[str, IPv4Address] = {}
        self.free = 0

    def give(self, name: str, address: IPv4Address) -> None:
        """Give the address, unless the name has one or may not have this."""
        if name not in self.given and self.why_not(address) is None:
            self.given[name] = address
            self._holders[address] = name

    def give_any(self, names: list[str], seed: bytes) -> None:
        """Give each name an address that nobody wants; once there is none, `free` is how many there were."""
        candidates = self._facts.candidates(seed)
        pool = self._facts.ip_range or self._facts.subnet
        for name in names:
            for address in candidates:
                self.give(name, address)
                if name in self.given:
                    break
            else:
                self.free = sum(address in pool for address in self._holders)
                return

    def why_not(self, address: IPv4Address) -> str | None:
        """Say why an address cannot be given to one more decky; None if it can."""
        claim = self._claimed.get(address)
        if claim is not None:
            return f"{claim.mac} has it" if claim.has else f"{claim.mac} is about to take it"
        holder = self._holders.get(address)
        return self._facts.why_not(address) if holder is None else f"{holder} has it"


def _assignment(spec: DeckySpec, giving: _Giving, name: str, mac: str, before: Assignment | None) -> Assignment:
    ip = giving.given[name]
    if before is not None and before.ip == ip and spec.ip in (None, before.named):
        return replace(before, mac=mac, named=spec.ip)
    wanted = spec.ip or (None if before is None else before.ip)
    if wanted in (None, ip):
        return Assignment(ip, mac, spec.ip)
    return Assignment(ip, mac, spec.ip, wanted, giving.why_not(wanted))


def _macs(
    specs: Mapping[str, DeckySpec],
    given: Iterable[str],
    previous: Mapping[str, Assignment],
    seed: bytes,
    heard: set[str],
) -> dict[str, str]:
    named: dict[str, str] = {}  # the first who is named for it has it
    for name, spec in specs.items():
        if spec.mac is not None:
            named.setdefault(spec.mac, name)
    macs = {name: mac for mac, name in named.items()}
    taken = named.keys() | heard
    for name in given:
        if name in macs:
            continue
        before = previous.get(name)
        mac = before.mac if before is not None and before.mac not in taken else _new_mac(name, seed, taken)
        macs[name] = mac
        taken.add(mac)
    return macs


def _new_mac(name: str, seed: bytes, taken: set[str]) -> str:
    attempt = 0
    while True:
        digest = blake2b(f"{name}\0{attempt}".encode(), key=seed, digest_size=4).digest()
        mac = ":".join((_MAKERS[digest[0] % len(_MAKERS)], *(f"{byte:02x}" for byte in digest[1:])))
        if mac not in taken:
            return mac
        attempt += 1
