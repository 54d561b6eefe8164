"""Ask the LAN before addresses are given, and remember what it said while one shard is applied.

An address counts as free when nobody claimed it within a probe; only that lets a decky have it. One that another worker
asks for at the same time is left to it, as long as there are others. Whoever claims
everything can keep this worker from placing deckies, and nothing else: those that run go on, and removals are done. So
the number of probes is bounded, and a decky for which none of them found an address is withheld. So it is when the LAN
cannot be asked.

Our own deckies are no strangers: where a switch lets a worker hear them, their MACs tell.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from itertools import islice

import structlog

from decnet_agent.deploying.lan import Claim, NetworkFacts
from decnet_agent.deploying.planning import CreateDecky, Plan, StartDecky
from decnet_agent.deploying.relocalising import Assignment
from decnet_core.errors import DecnetError

ROUNDS = 8
"""How often the LAN is asked for other addresses: in a crowded one most are taken, and each round asks for more."""

SPARES = 8
"""Addresses that are asked in advance in a crowded LAN, twice as many in each further round, 2,040 in all; no more than
two for each that somebody has. Many workers begin at the same moment, and would keep from one another what none of them
needs."""

Ask = Callable[[Sequence[IPv4Address]], Awaitable[list[Claim]]]

log = structlog.get_logger()


class Enquiry:
    """What is asked and heard while one shard is applied.

    Args:
        ask: probes addresses.
        own: the MACs of our deckies.
    """

    def __init__(self, ask: Ask, own: Collection[str]) -> None:
        self._ask = ask
        self._own = set(own)
        self._asked: set[IPv4Address] = set()
        self.claims: list[Claim] = []

    async def ask(self, addresses: Iterable[IPv4Address], *, ours: bool = False) -> None:
        """Ask the LAN, also for what it was asked before.

        Args:
            addresses: which.
            ours: our deckies run on them, so that who only asks for one will be told.

        Raises:
            DecnetError: it cannot be asked.
        """
        asked = list(dict.fromkeys(addresses))
        if not asked:
            return
        heard = await self._ask(asked)
        self._asked.update(asked)
        self.claims += [claim for claim in heard if claim.mac not in self._own and (claim.has or not ours)]

    def claimed(self, assignments: Mapping[str, Assignment]) -> dict[str, Claim]:
        """Return whose address a stranger claims."""
        claims = {claim.address: claim for claim in self.claims}
        return {name: claims[given.ip] for name, given in assignments.items() if given.ip in claims}

    async def settle(
        self,
        make: Callable[[Collection[Claim], Mapping[str, str]], Plan],
        facts: NetworkFacts,
        seed: bytes,
        doubted: Collection[str],
    ) -> Plan:
        """Plan until every address that is about to be used was found free.

        Args:
            make: the planner; it takes the claims, and who is withheld and why.
            facts: the LAN.
            seed: the worker's secret.
            doubted: names of deckies that run, and whose addresses are asked for all the same.
        """
        for number in range(ROUNDS):
            plan = make(self.claims, {})
            if plan.homeless and self._forget_who_only_asked():
                plan = make(self.claims, {})
            unproven = self._unproven(plan, doubted)
            if not unproven:
                self._own |= {given.mac for given in plan.assignments.values()}
                return plan
            known = self._asked | {given.ip for given in plan.assignments.values()}
            spares = (address for address in facts.candidates(seed) if address not in known)
            try:
                taken = sum(claim.has for claim in self.claims)
                await self.ask([*unproven.values(), *islice(spares, min(SPARES << number, 2 * taken))])
            except DecnetError as error:
                log.warning("lan.probe_failed", reason=error.message, advice=error.advice)
                return make(self.claims, dict.fromkeys(unproven, f"{error.message}. {error.advice}"))
        plan = make(self.claims, {})
        crowded = f"no free address was found for it: {len(self._asked)} were asked for in {facts.subnet}"
        return make(self.claims, dict.fromkeys(self._unproven(plan, doubted), crowded))

    def _forget_who_only_asked(self) -> bool:
        """Let addresses be asked for again that another worker thought of and need not have taken."""
        asked = {claim.address for claim in self.claims if not claim.has}
        self.claims = [claim for claim in self.claims if claim.has]
        self._asked -= asked
        return bool(asked)

    def _unproven(self, plan: Plan, doubted: Collection[str]) -> dict[str, IPv4Address]:
        used = {step.name for step in plan.steps if isinstance(step, StartDecky)}
        used |= {step.decky.spec.name for step in plan.steps if isinstance(step, CreateDecky)}
        used |= plan.assignments.keys() & doubted
        return {
            name: given.ip for name, given in plan.assignments.items() if name in used and given.ip not in self._asked
        }
