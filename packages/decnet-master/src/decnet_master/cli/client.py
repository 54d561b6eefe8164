"""What the controller can be asked, a method for each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Self

import typer

from decnet_core.errors import DecnetError, Unavailable
from decnet_core.pki.live import renewal_due
from decnet_master.cli.connection import Connection, Progress
from decnet_master.settings import MasterSettings
from decnet_master.swarmctl.fleet_messages import ApplyRequest, FleetPlan, MutateRequest, ResetRequest
from decnet_master.swarmctl.messages import (
    BootstrapOffer,
    BundleReply,
    BundleRequest,
    CapacityRequest,
    CheckReply,
    ControllerHealth,
    DecommissionReply,
    DeployRequest,
    EnrollReply,
    EnrollRequest,
    FleetReply,
    LabelRequest,
    PkiStatus,
    RetireRequest,
    TeardownRequest,
    TokenList,
    TokenView,
)
from decnet_master.swarmctl.operator_messages import Grant, OperatorList, OperatorView, RenewalRequest, SignRequest
from decnet_master.views import DeckyList, HostDetail, HostList, HostView


class Controller(Connection):
    """What the controller can be asked; `Connection` tells what asking raises."""

    def __init__(self, settings: MasterSettings, *, renews: bool = True) -> None:
        """Find the way to the controller; nothing is dialled yet, and errors are those of `Connection`.

        Args:
            settings: of who asks.
            renews: whether an operator's certificate is renewed when that is due, before anything else is asked.
        """
        super().__init__(settings)
        self._settings = settings
        self._renews = renews

    def __enter__(self) -> Self:
        """Renew the operator's certificate when that is due; it is in use from the next command on."""
        if self._renews and self.operator is not None and datetime.now(UTC) >= renewal_due(self.operator):
            from decnet_master.cli import operator_identity  # noqa: PLC0415 -- not every command is an operator's

            try:
                operator_identity.renew(self._settings, self.renew_operator)
            except Unavailable:
                pass  # which the command itself meets and says next
            except DecnetError as error:
                typer.echo(f"The operator's certificate was not renewed: {error.message}. {error.advice}", err=True)
        return self

    def health(self) -> ControllerHealth:
        """Ask whether it is there."""
        return self.ask("GET", "/health", ControllerHealth)

    def hosts(self, statuses: Sequence[str] = ()) -> HostList:
        """List the workers, all or those of some statuses."""
        return self.ask("GET", "/hosts", HostList, query={"status": list(statuses)})

    def host(self, name: str) -> HostDetail:
        """Show one worker."""
        return self.ask("GET", f"/hosts/{name}", HostDetail)

    def enroll(self, name: str, ttl_minutes: int | None, labels: dict[str, str] | None = None) -> EnrollReply:
        """Make a join token."""
        request = EnrollRequest(name=name, ttl_minutes=ttl_minutes, labels=labels or {})
        return self.ask("POST", "/hosts", EnrollReply, request)

    def label(self, name: str, labels: dict[str, str], remove: tuple[str, ...]) -> HostView:
        """Give a worker labels, and take others away."""
        return self.ask("POST", f"/hosts/{name}/labels", HostView, LabelRequest(labels=labels, remove=remove))

    def limit(self, name: str, capacity: int | None) -> HostView:
        """Say how many deckies a worker takes; None is as many as any."""
        return self.ask("POST", f"/hosts/{name}/capacity", HostView, CapacityRequest(capacity=capacity))

    def bootstrap(self) -> BootstrapOffer:
        """Ask what bare hosts can be sent."""
        return self.ask("GET", "/bootstrap", BootstrapOffer)

    def bundle(self, request: BundleRequest) -> BundleReply:
        """Enrol a worker whose keys were made here."""
        return self.ask("POST", "/hosts/bundle", BundleReply, request)

    def tokens(self) -> TokenList:
        """List the join tokens."""
        return self.ask("GET", "/tokens", TokenList)

    def revoke_token(self, token_id: str) -> TokenView:
        """Refuse a join token from now on."""
        return self.ask("POST", f"/tokens/{token_id}/revoke", TokenView)

    def pki(self) -> PkiStatus:
        """Ask how the CAs stand."""
        return self.ask("GET", "/pki", PkiStatus)

    def rotate(self) -> PkiStatus:
        """Begin to change the CA."""
        return self.ask("POST", "/pki/rotate", PkiStatus)

    def retire(self, *, force: bool) -> PkiStatus:
        """Trust the old CA no more."""
        return self.ask("POST", "/pki/retire", PkiStatus, RetireRequest(force=force))

    def operators(self) -> OperatorList:
        """List who may steer from elsewhere."""
        return self.ask("GET", "/operators", OperatorList)

    def let_in(self, name: str, csr: str) -> Grant:
        """Let an operator in, with the key of a request (PEM)."""
        return self.ask("POST", "/operators", Grant, SignRequest(name=name, csr=csr))

    def renew_operator(self, request: RenewalRequest) -> Grant:
        """Ask for a certificate for a new key of the operator that asks."""
        return self.ask("POST", "/operators/renew", Grant, request)

    def revoke_operator(self, name: str) -> OperatorView:
        """Refuse an operator from now on."""
        return self.ask("POST", f"/operators/{name}/revoke", OperatorView)

    def decommission(self, name: str) -> DecommissionReply:
        """Refuse a worker from now on."""
        return self.ask("POST", f"/hosts/{name}/decommission", DecommissionReply)

    def check(self) -> CheckReply:
        """Let it ask every active worker."""
        return self.ask("POST", "/hosts/check", CheckReply)

    def deckies(self, hosts: Sequence[str] = (), states: Sequence[str] = ()) -> DeckyList:
        """List the deckies, all or those on some workers and in some states."""
        return self.ask("GET", "/fleet/deckies", DeckyList, query={"host": list(hosts), "state": list(states)})

    def plan_deploy(self, request: DeployRequest) -> FleetPlan:
        """Ask what a deploy would do."""
        return self.ask("POST", "/fleet/deploy/plan", FleetPlan, request)

    def plan_apply(self, request: ApplyRequest) -> FleetPlan:
        """Ask what an apply would do."""
        return self.ask("POST", "/fleet/apply/plan", FleetPlan, request)

    def deploy(self, request: DeployRequest, told: Progress | None = None) -> FleetReply:
        """Add deckies; see `change`."""
        return self.change("/fleet/deploy", request, told)

    def apply(self, request: ApplyRequest, told: Progress | None = None) -> FleetReply:
        """Make the fleet what is declared; see `change`."""
        return self.change("/fleet/apply", request, told)

    def plan_mutate(self, request: MutateRequest) -> FleetPlan:
        """Ask what a mutation would do."""
        return self.ask("POST", "/fleet/mutate/plan", FleetPlan, request)

    def mutate(self, request: MutateRequest, told: Progress | None = None) -> FleetReply:
        """Let deckies gain or lose a service; see `change`."""
        return self.change("/fleet/mutate", request, told)

    def plan_reset(self, request: ResetRequest) -> FleetPlan:
        """Ask what a reset would do."""
        return self.ask("POST", "/fleet/reset/plan", FleetPlan, request)

    def reset(self, request: ResetRequest, told: Progress | None = None) -> FleetReply:
        """Make deckies what they were when they were new; see `change`."""
        return self.change("/fleet/reset", request, told)

    def teardown(self, names: tuple[str, ...], told: Progress | None = None) -> FleetReply:
        """Remove deckies; no names mean all. See `change`."""
        return self.change("/fleet/teardown", TeardownRequest(names=names), told)
