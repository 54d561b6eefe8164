"""Hosts and deckies as the outside sees them: the controller's and the API's answers are the same documents.

Programs read them: fields are added, never renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import Field

from decnet_core.fleet import Account, Contract, DeckyPhase

if TYPE_CHECKING:  # the CLI reads these documents and needs no database for it
    from decnet_master.store import Heartbeat, Host, PlacedDecky


class HostView(Contract):
    """A worker as the master knows it; a `capacity` of None is as many deckies as any takes.

    `unreachable_since` is when its agent last answered, while it does not. `drift` says how it differed from what it
    shall be when it did, and `repair` why that could not be mended, `repair_failures` times in a row.
    """

    name: str
    status: str
    address: str | None = None
    agent_port: int | None = None
    version: str | None = None
    enrolled_at: datetime | None = None
    seen_at: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    capacity: int | None = None
    unreachable_since: datetime | None = None
    drift: tuple[str, ...] = ()
    repair: str | None = None
    repair_failures: int = 0


class HostList(Contract):
    """All workers, by name."""

    hosts: tuple[HostView, ...]


class DeckyView(Contract):
    """One decky: as it shall be and as its worker last reported it.

    `phase` is None while nobody knows it: until there is a report, and while its worker is not active (`host_status`).
    `ip` is the address that it has; where another one was wanted, `moved_from` is that and `moved_because` says why.
    `contested_by` is the MAC of another machine that has the address too. `unreachable_since` is when its worker last
    answered, while it does not: what is shown is of that time then.
    """

    name: str
    host: str
    services: tuple[str, ...]
    accounts: tuple[Account, ...]
    phase: DeckyPhase | None = None
    ip: str | None = None
    mac: str | None = None
    error: str | None = None
    generation: int
    moved_from: str | None = None
    moved_because: str | None = None
    contested_by: str | None = None
    unreachable_since: datetime | None = None
    host_status: str = "active"
    sometimes: tuple[str, ...] = ()
    mutated_at: datetime | None = None


class DeckyList(Contract):
    """All deckies, by name."""

    deckies: tuple[DeckyView, ...]


class HostDetail(Contract):
    """All that the master knows of one worker, without asking it; the certificate is its agent's."""

    host: HostView
    updater_port: int | None = None
    certificate_ends_at: datetime | None = None
    deckies: tuple[DeckyView, ...] = ()


def host_view(host: Host, beat: Heartbeat | None = None) -> HostView:
    """Show one host, with what its heartbeats say."""
    return HostView(
        name=host.name,
        status=host.status.value,
        address=host.address,
        agent_port=host.agent_port,
        version=host.version,
        enrolled_at=host.enrolled_at,
        seen_at=host.seen_at,
        labels=dict(host.labels),
        capacity=host.capacity,
        unreachable_since=None if beat is None else beat.unreachable_since,
        drift=() if beat is None else beat.drift,
        repair=None if beat is None else beat.repair,
        repair_failures=0 if beat is None else beat.repairs_alike,
    )


def host_list(hosts: Iterable[Host], beats: Mapping[str, Heartbeat]) -> HostList:
    """Show hosts, in the order given, with what their heartbeats say."""
    return HostList(hosts=tuple(host_view(host, beats.get(host.name)) for host in hosts))


def decky_list(deckies: Iterable[PlacedDecky], beats: Mapping[str, Heartbeat]) -> DeckyList:
    """Show deckies by name; what a worker reported goes before what was planned."""
    away = {host: beat.unreachable_since for host, beat in beats.items()}
    return DeckyList(
        deckies=tuple(
            DeckyView(
                name=decky.spec.name,
                host=decky.host,
                services=decky.spec.services,
                accounts=decky.spec.accounts,
                phase=decky.known_phase,
                ip=decky.ip or (str(decky.spec.ip) if decky.spec.ip else None),
                mac=decky.mac or decky.spec.mac,
                error=decky.error,
                generation=decky.generation,
                moved_from=decky.moved_from,
                moved_because=decky.moved_because,
                contested_by=decky.contested_by,
                unreachable_since=away.get(decky.host),
                host_status=decky.host_status.value,
                sometimes=decky.terms.sometimes,
                mutated_at=decky.terms.mutated_at,
            )
            for decky in sorted(deckies, key=lambda decky: decky.spec.name)
        )
    )
