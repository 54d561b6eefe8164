"""Speak to the controller: the CLI's one adapter for HTTP.

The controller's problems become our errors again, so that a verb ends with the same exit code as if it had met the
error itself.
"""

from __future__ import annotations

import json
import ssl
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import ValidationError

from decnet_core.errors import RemoteProtocolError, Unavailable
from decnet_core.fleet import Contract
from decnet_master import secret_files
from decnet_master.problems import error_of
from decnet_master.settings import MasterSettings
from decnet_master.swarmctl.messages import (
    BootstrapOffer,
    BundleReply,
    BundleRequest,
    CheckReply,
    ControllerHealth,
    DecommissionReply,
    DeployRequest,
    EnrollReply,
    EnrollRequest,
    FleetReply,
    PkiStatus,
    RetireRequest,
    TeardownRequest,
    TokenList,
    TokenView,
)
from decnet_master.views import DeckyList, HostList

CONNECT_SECS = 3.0
ASK_SECS = 60.0
"""A check of a thousand workers that do not answer, 128 at a time with 5 s each, is over within 40 s."""

APPLY_SECS = 3600.0
"""The controller gives each worker a quarter of an hour and speaks to 64 at once."""

Answer = TypeVar("Answer", bound=Contract)


class Controller:
    """A connection to the controller; use it in a `with` block."""

    def __init__(self, settings: MasterSettings) -> None:
        """Read the secret; nothing is dialled yet.

        Raises:
            ConfigError, TrustError: the secret is missing, unreadable or open to others.
        """
        self._address = settings.controller_address
        self._http = httpx.Client(
            base_url=f"http://{self._address}",
            headers={"authorization": f"Bearer {secret_files.read(settings.controller_secret_file)}"},
            trust_env=False,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # never used; the default reads all of the system's roots
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    # Each of these raises Unavailable when the controller does not answer, and what it answered instead of a result.

    def health(self) -> ControllerHealth:
        """Ask whether it is there."""
        return self._call("GET", "/health", ControllerHealth)

    def hosts(self) -> HostList:
        """List the workers."""
        return self._call("GET", "/hosts", HostList)

    def enroll(self, name: str, ttl_minutes: int | None) -> EnrollReply:
        """Make a join token."""
        return self._call("POST", "/hosts", EnrollReply, EnrollRequest(name=name, ttl_minutes=ttl_minutes))

    def bootstrap(self) -> BootstrapOffer:
        """Ask what bare hosts can be sent."""
        return self._call("GET", "/bootstrap", BootstrapOffer)

    def bundle(self, request: BundleRequest) -> BundleReply:
        """Enrol a worker whose keys were made here."""
        return self._call("POST", "/hosts/bundle", BundleReply, request)

    def tokens(self) -> TokenList:
        """List the join tokens."""
        return self._call("GET", "/tokens", TokenList)

    def revoke_token(self, token_id: str) -> TokenView:
        """Refuse a join token from now on."""
        return self._call("POST", f"/tokens/{token_id}/revoke", TokenView)

    def pki(self) -> PkiStatus:
        """Ask how the CAs stand."""
        return self._call("GET", "/pki", PkiStatus)

    def rotate(self) -> PkiStatus:
        """Begin to change the CA."""
        return self._call("POST", "/pki/rotate", PkiStatus)

    def retire(self, *, force: bool) -> PkiStatus:
        """Trust the old CA no more."""
        return self._call("POST", "/pki/retire", PkiStatus, RetireRequest(force=force))

    def decommission(self, name: str) -> DecommissionReply:
        """Refuse a worker from now on."""
        return self._call("POST", f"/hosts/{name}/decommission", DecommissionReply)

    def check(self) -> CheckReply:
        """Let it ask every active worker."""
        return self._call("POST", "/hosts/check", CheckReply)

    def deckies(self) -> DeckyList:
        """List the deckies."""
        return self._call("GET", "/fleet/deckies", DeckyList)

    def deploy(self, request: DeployRequest) -> FleetReply:
        """Add deckies, and wait until every worker has said how it went."""
        return self._call("POST", "/fleet/deploy", FleetReply, request, total_secs=APPLY_SECS)

    def teardown(self, names: tuple[str, ...]) -> FleetReply:
        """Remove deckies; no names mean all."""
        return self._call("POST", "/fleet/teardown", FleetReply, TeardownRequest(names=names), total_secs=APPLY_SECS)

    def _call(
        self,
        method: str,
        path: str,
        answer: type[Answer],
        body: Contract | None = None,
        *,
        total_secs: float = ASK_SECS,
    ) -> Answer:
        try:
            response = self._http.request(
                method,
                path,
                content=None if body is None else body.model_dump_json(),
                headers={} if body is None else {"content-type": "application/json"},
                timeout=httpx.Timeout(total_secs, connect=CONNECT_SECS),
            )
        except httpx.HTTPError as cause:
            raise Unavailable(
                f"The controller does not answer on {self._address}", "Is `decnet-master serve` running?"
            ) from cause
        if response.is_error:
            raise error_of(response.status_code, _document(response))
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as cause:
            raise RemoteProtocolError(
                f"What listens on {self._address} is not this release's controller",
                "Restart `decnet-master serve` after an update.",
            ) from cause


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        document = json.loads(response.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
