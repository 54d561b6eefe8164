"""The fleet: what an operator asked for, what a worker is told, and what it says of itself.

These are contracts between the master and its agents (JSON over mutual TLS) and on disk (the agent keeps the last
shard it was given). Desired state is data: a `Shard` says which deckies one worker shall run, under a generation
number that only grows; applying the same shard twice changes nothing, and a worker refuses an older one.

Old files still load: a field is never renamed or given another meaning; new ones have defaults. Unknown fields are
refused, so that a typing error never passes as a silent default.
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from decnet_core.identity import is_host_name

MAX_DECKIES_PER_SHARD = 1000
"""More than any one worker's kernel was tried with; a shard is one HTTP body and stays under a few hundred KiB."""

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")


def _host_name(text: str) -> str:
    if not is_host_name(text):
        raise ValueError("a name is one lower-case host label: letters, digits and hyphens, 63 at most")
    return text


def _mac(text: str) -> str:
    if _MAC.fullmatch(text) is None:
        raise ValueError("a MAC address is six lower-case hex pairs with colons")
    if int(text[:2], 16) & 1:
        raise ValueError("a multicast MAC address cannot be a host's")
    return text


def _is_none(value: object) -> bool:
    return value is None


def _is_zero(value: object) -> bool:
    return value == 0


HostName = Annotated[str, AfterValidator(_host_name)]
MacAddress = Annotated[str, AfterValidator(_mac)]
ServiceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class Contract(BaseModel):
    """The rules of every model here: immutable, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Account(Contract):
    """A user of a decky and the weak password that lets an attacker in."""

    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
    password: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f:]+$")]


class DeckySpec(Contract):
    """One decky as it shall be. An address or MAC of None is chosen by the worker and reported back."""

    name: HostName
    services: Annotated[tuple[ServiceName, ...], Field(min_length=1, max_length=32)]
    accounts: Annotated[tuple[Account, ...], Field(max_length=16)] = ()
    ip: IPv4Address | None = None
    mac: MacAddress | None = None
    seed: Annotated[int | None, Field(ge=0, lt=1 << 48, exclude_if=_is_none)] = None
    """Who lives there follows from it: people, histories, files, time zone. None is nobody.

    It is left out where there is none, so that such a decky is written as it was before there were seeds: an older
    worker takes it, and nobody makes it anew. An older worker refuses a decky that has one: update workers first.
    """
    resets: Annotated[int, Field(ge=0, lt=1 << 31, exclude_if=_is_zero)] = 0
    """How often it was made anew only to be as it was when it was new. It is left out at first, as no `seed` is."""


class Shard(Contract):
    """All that one worker shall run, from this generation on."""

    generation: Annotated[int, Field(ge=1)]
    deckies: Annotated[tuple[DeckySpec, ...], Field(max_length=MAX_DECKIES_PER_SHARD)] = ()


class DeckyPhase(StrEnum):
    """Where a decky stands."""

    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"


class DeckyState(Contract):
    """One decky as the worker sees it; `error` says why it is not running.

    `ip` is the address that it really has. Where that is another one than was wanted, by the master or because the
    decky had it before, `moved_from` is that one and `moved_because` a sentence's part that says why. `contested_by` is
    the MAC of another machine that answers for `ip` too: the decky runs, and gets another address at the next apply.
    """

    name: HostName
    phase: DeckyPhase
    services: tuple[ServiceName, ...] = ()
    ip: IPv4Address | None = None
    mac: MacAddress | None = None
    container: str | None = None
    error: str | None = None
    moved_from: IPv4Address | None = None
    moved_because: str | None = None
    contested_by: MacAddress | None = None


class AgentStatus(Contract):
    """A worker's answer to "what runs where you are"."""

    host: HostName
    version: str
    generation: Annotated[int, Field(ge=0)]
    deckies: tuple[DeckyState, ...] = ()
    engine: str | None = None
    """The engine's version, or None when it does not answer."""
    taps: str = "none"
    """`kernel` while the tap process is connected, else `none`."""
    containment: str = "none"
    """`kernel` while the kernel keeps deckies from attacking, `off` where the operator said so, else `none`."""
    events_written: int = 0
    """Events appended to the event log since the agent started."""
    at: datetime


class ShardReport(Contract):
    """What became of a shard: each decky of it, running or failed, and what was removed."""

    host: HostName
    generation: int
    deckies: tuple[DeckyState, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every decky of the shard runs."""
        return all(decky.phase is DeckyPhase.RUNNING for decky in self.deckies)


class Health(Contract):
    """What `/health` of every worker daemon answers."""

    role: str
    host: str
    version: str
    ok: bool = True
