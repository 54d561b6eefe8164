"""Speak HTTP to the master while joining and renewing: the package's one adapter for it.

Joining takes two connections: one that trusts nobody and asks for the CA, and one that trusts that CA alone and checks
the name `decnet-master`, whatever address was dialled. Renewing checks that name too, and shows a certificate. No
proxy, redirect or environment variable has a
say; every wait has a limit; answers are bounded.

httpx is imported when a call is made: only `join` and `renew` need it.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import JoinReply, JoinRequest, RenewReply, RenewRequest, SeenReply
from decnet_core.errors import Conflict, DecnetError, RemoteProtocolError, RetryLater, TrustError, Unavailable
from decnet_core.identity import MASTER_HOST
from decnet_core.logs import shown
from decnet_core.pki.tls import unverified_context

if TYPE_CHECKING:
    import httpx

ANSWER_SECS = 15.0
MAX_ANSWER_BYTES = 64 << 10
"""A CA and three certificates are under 8 KiB."""

_REACH = "Check the address in the token, that `decnet-master serve` runs, and that no firewall stands between."


@dataclass(frozen=True, slots=True)
class Answer:
    """What the master said."""

    status: int
    content: bytes
    certificate: bytes = b""
    """Who said it: the DER that the TLS library verified."""


def fetch_ca(master: Endpoint) -> bytes:
    """Ask who is there for its CA; trust nothing in the answer before the pin was checked.

    Raises:
        Unavailable: nobody answers, or not in TLS.
    """
    answer = _send(master, unverified_context(), "GET", "/ca", None)
    if answer.status != 200:
        raise Unavailable(f"{master} answered {answer.status} when asked for its CA", _REACH)
    return answer.content


def ask_to_join(master: Endpoint, tls: ssl.SSLContext, request: JoinRequest) -> JoinReply:
    """Send the token and the requests over a connection that trusts the pinned CA alone.

    Raises:
        TrustError: the master refuses the token, or who answers does not hold the pinned CA's certificate.
        Unavailable: nobody answers; trying again is harmless.
        RemoteProtocolError: the answer is none of a master.
    """
    answer = _send(master, tls, "POST", "/join", request.model_dump_json().encode())
    if answer.status != 200:
        raise _refusal(answer, "join")
    try:
        return JoinReply.model_validate_json(answer.content)
    except ValidationError:
        raise RemoteProtocolError(
            "The master's answer cannot be read", "Install the same release on the master and on this worker."
        ) from None


def ask_to_renew(master: Endpoint, tls: ssl.SSLContext, request: RenewRequest) -> tuple[RenewReply, bytes]:
    """Ask for new certificates over a connection that shows the agent's; return them and the master's own (DER).

    Raises:
        TrustError: the master refuses this worker, or who answers does not hold our CA's certificate.
        Unavailable: nobody answers; trying again is harmless.
        RemoteProtocolError: the answer is none of a master.
    """
    answer = _send(master, tls, "POST", "/renew", request.model_dump_json().encode())
    if answer.status != 200:
        raise _refusal(answer, "renew")
    try:
        return RenewReply.model_validate_json(answer.content), answer.certificate
    except ValidationError:
        raise RemoteProtocolError(
            "The master's answer cannot be read", "Install the same release on the master and on this worker."
        ) from None


def confirm(master: Endpoint, tls: ssl.SSLContext) -> None:
    """Show the master a new certificate; raises as `ask_to_renew` does."""
    answer = _send(master, tls, "GET", "/renewed", None)
    if answer.status != 204:
        raise _refusal(answer, "renew")


def ask_to_be_seen(master: Endpoint, tls: ssl.SSLContext) -> SeenReply:
    """Have the master call this worker's agent, over a connection that shows its certificate.

    Raises:
        TrustError: the master refuses this worker, or who answers does not hold our CA's certificate.
        Unavailable: nobody answers; trying again is harmless.
        RemoteProtocolError: the answer is none of a master.
    """
    answer = _send(master, tls, "POST", "/seen", b"")
    if answer.status != 200:
        raise _refusal(answer, "be seen")
    try:
        return SeenReply.model_validate_json(answer.content)
    except ValidationError:
        raise RemoteProtocolError(
            "The master's answer cannot be read", "Install the same release on the master and on this worker."
        ) from None


def _send(master: Endpoint, tls: ssl.SSLContext, method: str, path: str, body: bytes | None) -> Answer:
    import httpx  # noqa: PLC0415 - see above

    try:
        with (
            httpx.Client(verify=tls, trust_env=False, follow_redirects=False, timeout=ANSWER_SECS) as client,
            client.stream(
                method,
                f"https://{master}{path}",
                content=body,
                headers={} if body is None else {"content-type": "application/json"},
                extensions={"sni_hostname": MASTER_HOST},
            ) as response,
        ):
            shown_by = response.extensions["network_stream"].get_extra_info("ssl_object")
            certificate = shown_by.getpeercert(True) or b""
            content = bytearray()
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise RemoteProtocolError(f"{master} answered more than a master would", _REACH)
            return Answer(response.status_code, bytes(content), certificate)
    except httpx.HTTPError as cause:
        raise _transport_error(master, cause) from cause


def _transport_error(master: Endpoint, cause: httpx.HTTPError) -> DecnetError:
    import httpx  # noqa: PLC0415 - see above

    seen: BaseException | None = cause
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            if seen.verify_code in (9, 10):  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
                return TrustError(
                    f"The master's certificate is not valid at this host's time: {seen.verify_message}",
                    "Set this host's clock (`timedatectl`); if it is right, renew the master's certificate.",
                )
            return TrustError(
                f"Who answers at {master} is not the master of this token: {seen.verify_message}",
                "Check the address in the token, and whether somebody intercepts the connection.",
            )
        if isinstance(seen, ssl.SSLError):
            return Unavailable(f"{master} does not speak TLS 1.3 as a master does", _REACH)
        seen = seen.__cause__ or seen.__context__
    if isinstance(cause, httpx.TimeoutException):
        return Unavailable(f"The master does not answer at {master} within {ANSWER_SECS:.0f} s", _REACH)
    if isinstance(cause, httpx.ConnectError):
        return Unavailable(f"The master cannot be reached at {master}", _REACH)
    return Unavailable(
        f"The connection to {master} broke: {type(cause).__name__}", "Try the same again: nothing is lost."
    )


def _refusal(answer: Answer, wish: str) -> DecnetError:
    try:
        document = json.loads(answer.content)
    except (ValueError, RecursionError):
        document = None
    problem = document if isinstance(document, dict) else {}
    detail = shown(str(problem.get("detail") or f"The master answered {answer.status}"), 300)
    advice = shown(str(problem.get("advice") or "Ask for a new token: `decnet-master swarm enroll`."), 300)
    if answer.status in (401, 403):
        return TrustError(f"The master refuses to let this host {wish}: {detail}", advice)
    if answer.status == 409:
        return Conflict(f"The master refuses to let this host {wish}: {detail}", advice)
    if answer.status in (429, 503):
        return RetryLater(f"The master cannot answer now: {detail}", advice)
    if answer.status >= 500:
        return Unavailable(f"The master failed: {detail}", f"Look into the master's log, then {wish} again.")
    return RemoteProtocolError(f"The master does not understand this host: {detail}", advice)
