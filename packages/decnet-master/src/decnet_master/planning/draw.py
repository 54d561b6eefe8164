"""Draw deckies that differ from all there are, and from one another: in name, network card and accounts.

This is where a fleet is kept free of equal MAC addresses, for all its workers: whoever chooses a card's maker, every
address passes by here, beside those of deckies that exist or linger. Host keys need no such care: each is made of the
worker's own randomness.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from decnet_core.fleet import Account, DeckySpec
from decnet_master import disguise
from decnet_master.planning.requests import Placement

SEED_BITS = 48
"""Of who lives on a decky: two of ten thousand share one with a probability of 1 in 5 million."""


class Draw:
    """Draws deckies, the same ones from the same seed.

    Args:
        seed: of all that is drawn.
        existing: what a new one must not be taken for.
    """

    def __init__(self, seed: int, existing: Iterable[Placement]) -> None:
        specs = [placement.decky for placement in existing]
        self._rng = Random(seed)  # noqa: S311 -- a disguise, not a secret, and it must be repeatable
        self._names = disguise.Names(spec.name for spec in specs)
        self._macs = {spec.mac for spec in specs if spec.mac}
        self._accounts: set[frozenset[Account]] = {frozenset(spec.accounts) for spec in specs}

    def decky(self, services: tuple[str, ...], prefix: str | None = None) -> DeckySpec:
        """Draw one under a drawn name, or under `<prefix>-<the next free number>`."""
        kind = disguise.kind(self._rng)
        name = self._names.numbered(prefix) if prefix else self._names.drawn(self._rng, kind)
        return self._spec(name, services, kind)

    def named(self, name: str, services: tuple[str, ...]) -> DeckySpec:
        """Draw all of one but its name."""
        return self._spec(name, services, disguise.kind(self._rng))

    def _spec(self, name: str, services: tuple[str, ...], kind: disguise.Kind) -> DeckySpec:
        mac = disguise.mac_address(self._rng, kind.prefixes, self._macs)
        accounts = disguise.accounts(self._rng, self._accounts)
        seed = self._rng.getrandbits(SEED_BITS)
        self._macs.add(mac)
        self._accounts.add(frozenset(accounts))
        return DeckySpec(name=name, services=services, accounts=accounts, mac=mac, seed=seed)
