"""What the controller can be asked, a method for each."""

from __future__ import annotations

from collections.abc import Sequence

from decnet_master.cli.connection import Connection, Progress
from decnet_master.swarmctl.fleet_messages import ApplyRequest, FleetPlan
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
from decnet_master.views import DeckyList, HostList, HostView


class Controller(Connection):
    """What the controller can be asked; `Connection` tells what asking raises."""

    def health(self) -> ControllerHealth:
        """Ask whether it is there."""
        return self.ask("GET", "/health", ControllerHealth)

    def hosts(self, statuses: Sequence[str] = ()) -> HostList:
        """List the workers, all or those of some statuses."""
        return self.ask("GET", "/hosts", HostList, query={"status": list(statuses)})

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

    def teardown(self, names: tuple[str, ...], told: Progress | None = None) -> FleetReply:
        """Remove deckies; no names mean all. See `change`."""
        return self.change("/fleet/teardown", TeardownRequest(names=names), told)
