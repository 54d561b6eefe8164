"""Ask the master's ports whether the part that belongs there answers, each in its own language.

A bare connection would prove little (the kernel accepts for a process that hangs) and would stand in the listener's
log as a handshake that was refused. The TLS ports must show the master's own certificate.
"""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime

import httpx

from decnet_core.endpoints import Endpoint
from decnet_core.errors import Unavailable
from decnet_core.identity import MASTER_HOST, Role
from decnet_core.pki.keystore import KeyStore
from decnet_core.pki.tls import IdentityFiles, client_context
from decnet_core.shipping.control import ALPN, Reason, Refuse, encode_control
from decnet_master.settings import MasterSettings

PROBE_SECS = 3.0

_LISTENER_SAYS = encode_control(Refuse(Reason.ROLE))
"""What the listener has to say to the master, which ships nothing."""


def api(settings: MasterSettings) -> str:
    """Ask the API whether it is ready."""
    endpoint = _here(settings.api_address)
    return _get(f"http://{endpoint}/readyz", endpoint, None)


def enrolment(settings: MasterSettings) -> str:
    """Ask the enrolment endpoint for the CA, as a worker that joins does."""
    endpoint = _here(settings.enrolment_address)
    return _get(f"https://{endpoint}/ca", endpoint, client_context(None, _identity(settings).ca))


def operators(settings: MasterSettings, address: str) -> str:
    """Shake hands at the door for operators; nothing is asked there, for the master is none.

    Raises:
        Unavailable: it does not answer, or something else does.
        TrustError: the master's identity is missing or cannot be read.
    """
    endpoint, files = _here(address), _identity(settings)
    context = client_context(files, files.ca)
    try:
        with (
            socket.create_connection((endpoint.host, endpoint.port), timeout=PROBE_SECS) as raw,
            context.wrap_socket(raw, server_hostname=MASTER_HOST),
        ):
            return f"answers on {endpoint}"
    except OSError as cause:  # ssl.SSLError is one
        raise _away(endpoint, cause) from cause


def listener(settings: MasterSettings) -> str:
    """Greet the listener with the master's identity.

    Raises:
        Unavailable: it does not answer, or something else does.
        TrustError: the master's identity is missing or cannot be read.
    """
    endpoint, files = _here(settings.listener_address), _identity(settings)
    context = client_context(files, files.ca, (ALPN,))
    try:
        with (
            socket.create_connection((endpoint.host, endpoint.port), timeout=PROBE_SECS) as raw,
            context.wrap_socket(raw, server_hostname=MASTER_HOST) as channel,
        ):
            said = channel.recv(len(_LISTENER_SAYS))
    except OSError as cause:  # ssl.SSLError is one
        raise _away(endpoint, cause) from cause
    if said != _LISTENER_SAYS:
        raise Unavailable(f"what listens on {endpoint} is not this release's listener")
    return f"answers on {endpoint}"


def _get(url: str, endpoint: Endpoint, tls: ssl.SSLContext | None) -> str:
    try:
        with httpx.Client(verify=tls or False, trust_env=False, timeout=PROBE_SECS) as client:
            answer = client.get(url, extensions={"sni_hostname": MASTER_HOST})
    except httpx.HTTPError as cause:
        raise _away(endpoint, cause) from cause
    if answer.status_code != httpx.codes.OK:
        raise Unavailable(f"what listens on {endpoint} answers {answer.status_code}")
    return f"answers on {endpoint}"


def _here(address: str) -> Endpoint:
    endpoint = Endpoint.parse(address)
    return Endpoint({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(endpoint.host, endpoint.host), endpoint.port)


def _identity(settings: MasterSettings) -> IdentityFiles:
    return KeyStore(settings.identities_directory).load(Role.MASTER, datetime.now(UTC)).files


def _away(endpoint: Endpoint, cause: Exception) -> Unavailable:
    if isinstance(cause, ConnectionRefusedError | httpx.ConnectError):
        return Unavailable(f"nothing answers on {endpoint}")
    return Unavailable(f"what listens on {endpoint} does not answer as it should: {type(cause).__name__}")
