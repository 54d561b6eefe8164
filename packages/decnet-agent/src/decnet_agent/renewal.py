"""Renew this worker's certificates: `decnet-agent renew`, which the serving agent calls when it is time.

One process renews all identities of a worker, with the agent's: agent, logship and updater. It makes new keys, asks the
master on a connection that shows the agent's certificate, judges the answer (`grants`) and stores it; the daemons
follow by themselves (`decnet_core.pki.live`). The agent's own identity is stored last, so that a worker that was seen
with its new one has all of them. Killed at any point, the next try asks about the same keys, gets the same
certificates, and goes on.

It is a process of its own because making keys and judging certificates costs 13 MB that the agent would never give
back, and because what hangs can be ended.

A certificate that has ended cannot be renewed: the worker has to join again, and is told so.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from decnet_agent import __version__, master_client
from decnet_agent.grants import judged
from decnet_agent.joining import hand_over, read_enrolment
from decnet_agent.settings import AgentSettings
from decnet_core.endpoints import Endpoint
from decnet_core.enrolment import Enrolment, RenewRequest
from decnet_core.errors import DecnetError, RemoteProtocolError, TrustError
from decnet_core.identity import WORKER_ROLES, Identity, Role
from decnet_core.pki.keystore import KeyStore, StoredIdentity
from decnet_core.pki.live import renewal_due
from decnet_core.pki.tls import client_context

log = structlog.get_logger()

# The agent's last: see above.
_ORDER = (*(role for role in WORKER_ROLES if role is not Role.AGENT), Role.AGENT)


@dataclass(frozen=True, slots=True)
class Renewal:
    """How the agent's identity stands now, and whether it was renewed."""

    agent: StoredIdentity
    renewed: bool


def renew(settings: AgentSettings, *, forced: bool = False) -> Renewal:
    """Renew what is due.

    Args:
        forced: also what is not.

    Raises:
        IdentityEnded: the agent's certificate has ended.
        TrustError: this host has not joined, the master refuses it, or its answer does not hold together.
        Conflict: another process renews.
        Unavailable: the master does not answer; what was in use stays in use.
        RemoteProtocolError: the master's answer cannot be read.
        ConfigError: the identities cannot be written.
    """
    enrolment = read_enrolment(settings.data_directory)
    if enrolment is None:
        raise TrustError(
            "This host has not joined a master",
            "Run `decnet-agent join` with the token that `decnet-master swarm enroll` prints.",
        )
    store = KeyStore(settings.identities_directory)
    with store.turn():
        agent = store.load(Role.AGENT, datetime.now(UTC))
        if not forced and not _is_due(store, agent):
            return Renewal(agent, renewed=False)
        renewed = _renew_all(store, agent, enrolment)
        hand_over(settings.data_directory)
    _confirm(renewed, enrolment)
    return Renewal(renewed, renewed=True)


def store_all(store: KeyStore, granted: Mapping[Role, bytes], ca_pem: bytes, now: datetime) -> StoredIdentity:
    """Put all identities of a renewal into use, the agent's last; return that one. Raises as `KeyStore.store` does."""
    stored = {role: store.store(role, granted[role], ca_pem, now) for role in _ORDER}
    return stored[Role.AGENT]


def _is_due(store: KeyStore, agent: StoredIdentity) -> bool:
    now = datetime.now(UTC)
    if now >= renewal_due(agent):
        return True
    try:
        for role in _ORDER:
            store.load(role, now)
    except TrustError:  # missing, ended or damaged: a renewal mends it
        return True
    return False


def _renew_all(store: KeyStore, agent: StoredIdentity, enrolment: Enrolment) -> StoredIdentity:
    from decnet_core.pki.certificates import make_csr  # noqa: PLC0415 - `cryptography` is 13 MB

    host = agent.identity.host
    request = RenewRequest(
        version=__version__,
        csrs={role: make_csr(store.create_key(role), Identity(role, host)).decode("ascii") for role in _ORDER},
    )
    reply, master_der = master_client.ask_to_renew(_master(enrolment), _context(agent), request)
    if reply.host != host:
        raise RemoteProtocolError("The master's answer is for another host", "Try again.")
    now = datetime.now(UTC)
    ca_pem, granted = judged(host, reply.ca_pem, reply.certificates, _ORDER, now, master_der=master_der)
    return store_all(store, granted, ca_pem, now)


def _confirm(agent: StoredIdentity, enrolment: Enrolment) -> None:
    """Show the master the new certificate; it learns of it anyway when it next calls, so this may fail."""
    try:
        master_client.confirm(_master(enrolment), _context(agent))
    except DecnetError as error:
        log.warning("renewal.unconfirmed", reason=error.message)


def _context(agent: StoredIdentity) -> ssl.SSLContext:
    return client_context(agent.files, agent.files.ca)


def _master(enrolment: Enrolment) -> Endpoint:
    return Endpoint(enrolment.master, enrolment.enrolment_port)
