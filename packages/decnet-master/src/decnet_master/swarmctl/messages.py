"""What the operator's CLI and the controller say to each other.

A contract within one package; both ends are of the same release, also where an operator asks from elsewhere. `--json`
output is these
documents, so that scripts depend on them: fields are added, never renamed.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from decnet_core.enrolment import MAX_CSR_CHARS, Enrolment
from decnet_core.fleet import MAX_DECKIES_PER_SHARD, Contract, HostName, ServiceName, ShardReport
from decnet_core.identity import Role
from decnet_master.labels import MAX_LABELS, LabelKey, Labels
from decnet_master.planning import MAX_FLEET

PlanId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class EnrollRequest(Contract):
    """Make a join token for a new worker."""

    name: HostName
    ttl_minutes: Annotated[int, Field(ge=1, le=24 * 60)] | None = None
    labels: Labels = Field(default_factory=dict)


class EnrollReply(Contract):
    """The token, shown once: only a hash of its secret is stored."""

    host: HostName
    token: str
    expires_at: datetime


class BootstrapOffer(Contract):
    """What a bare host can be sent: the release, for which kinds of worker, and what the script's bytes hash to."""

    version: str
    script_sha256: str
    targets: tuple[str, ...]


class DecommissionReply(Contract):
    """The worker is refused from now on; so many deckies of the fleet are still placed on it."""

    host: HostName
    deckies: int


class TokenView(Contract):
    """A join token, without its secret."""

    id: str
    host: str
    state: str
    created_at: datetime | None
    expires_at: datetime


class TokenList(Contract):
    """All join tokens, the last to end first."""

    tokens: tuple[TokenView, ...]


class BundleRequest(Contract):
    """Enrol a worker whose keys were made here, because it reaches no enrolment endpoint now: its CSRs, by role."""

    name: HostName
    address: Annotated[str, Field(max_length=255)] | None = None
    agent_port: Annotated[int, Field(ge=1, le=0xFFFF)] = 8765
    updater_port: Annotated[int, Field(ge=1, le=0xFFFF)] = 8766
    csrs: Annotated[dict[Role, Annotated[str, Field(max_length=MAX_CSR_CHARS)]], Field(min_length=1)]
    labels: Labels = Field(default_factory=dict)


class BundleReply(Contract):
    """What such a worker needs beside its keys."""

    ca_pem: str
    certificates: dict[Role, str]
    enrolment: Enrolment


class LabelRequest(Contract):
    """Give a worker labels and take others away; those not named stay as they are."""

    labels: Labels = Field(default_factory=dict)
    remove: Annotated[tuple[LabelKey, ...], Field(max_length=MAX_LABELS)] = ()


class CapacityRequest(Contract):
    """Say how many deckies a worker takes: None is as many as any, 0 no more. What it runs stays."""

    capacity: Annotated[int, Field(ge=0, le=MAX_DECKIES_PER_SHARD)] | None


class AuthorityView(Contract):
    """A CA that is trusted."""

    fingerprint: str
    subject: str
    key: str
    not_after: datetime
    role: str
    """`only`; or `old` and `new` while the CA is changed."""


class WorkerCertificate(Contract):
    """How an active worker stands: the end of the certificate that its agent was last seen with, and whose it is."""

    host: str
    ends_at: datetime | None
    issuer: str | None
    moved: bool
    """It was seen with a certificate of the CA that stays."""


class PkiStatus(Contract):
    """The CAs and who depends on which."""

    changing: bool
    authorities: tuple[AuthorityView, ...]
    workers: tuple[WorkerCertificate, ...]
    open_tokens: int
    """Join tokens that can still be used; they name the old CA while it is changed."""
    operators: tuple[str, ...] = ()
    """Operators who depend on the old CA while it is changed."""


class RetireRequest(Contract):
    """Trust the old CA no more; with `force` also while workers depend on it."""

    force: bool = False


class LogState(StrEnum):
    """How a worker's log shipper stands, as far as the listener knows."""

    SHIPS = "ships"
    """It is connected."""
    AWAY = "away"
    """It should ship and is not connected, and not for long enough to be called silent."""
    SILENT = "silent"
    IDLE = "idle"
    """It is not connected and need not be: it has no deckies."""
    UNKNOWN = "unknown"
    """No listener reports."""


class HostCheck(Contract):
    """What came of asking one worker how it is.

    `ok`, `version`, `generation`, `deckies`, `engine`, `taps`, `containment`, `error` and `advice` are its agent's.
    `updater_ok` is None where no updater answers and none ever did. `heard_at` is when its log shipper was last heard,
    `silent_since` the same while that is too long ago. `wanted_generation` is what it must have heard of; `drift` says
    how it differs from what it shall be, and `repair` why that could not be mended, `repair_failures` times in a row.
    """

    host: str
    ok: bool
    version: str | None = None
    generation: int | None = None
    wanted_generation: int | None = None
    deckies: int | None = None
    engine: str | None = None
    taps: str | None = None
    containment: str | None = None
    updater_ok: bool | None = None
    updater_version: str | None = None
    updater_error: str | None = None
    log: LogState = LogState.UNKNOWN
    heard_at: datetime | None = None
    silent_since: datetime | None = None
    certificate_ends_at: datetime | None = None
    drift: tuple[str, ...] = ()
    repair: str | None = None
    repair_failures: int = 0
    error: str | None = None
    advice: str | None = None

    @property
    def well(self) -> bool:
        """Whether all three daemons are as they should be; what is being mended does not count."""
        return self.ok and self.updater_ok is not False and self.log is not LogState.SILENT


class CheckReply(Contract):
    """Every active worker's answer."""

    results: tuple[HostCheck, ...]


class DeployRequest(Contract):
    """Add deckies to the fleet. With a count of 0 nothing is added and what is not as desired is sent again.

    With a `plan` it is done only if the plan would still be this one.
    """

    count: Annotated[int, Field(ge=0, le=MAX_FLEET)] = 1
    services: Annotated[tuple[ServiceName, ...], Field(min_length=1, max_length=32)] = ("ssh",)
    hosts: Annotated[tuple[HostName, ...], Field(max_length=1000)] = ()
    labels: Labels = Field(default_factory=dict)
    name_prefix: Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$")] | None = None
    plan: PlanId | None = None


class TeardownRequest(Contract):
    """Remove deckies; no names mean the whole fleet."""

    names: Annotated[tuple[HostName, ...], Field(max_length=MAX_FLEET)] = ()


class WorkerResult(Contract):
    """What came of sending one worker its shard: a report, or why there is none."""

    host: str
    ok: bool
    report: ShardReport | None = None
    error: str | None = None
    advice: str | None = None


class FleetReply(Contract):
    """The generation of the desired state, and how far each worker that it concerns is."""

    generation: int
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    results: tuple[WorkerResult, ...] = ()


class ControllerHealth(Contract):
    """The controller answers."""

    ok: bool = True
    version: str
