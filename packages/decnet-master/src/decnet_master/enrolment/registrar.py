"""Trade a join token for a worker's certificates.

Of a request only the keys are taken: the names in the certificates come from the token, as the operator gave them.
Checking the token, issuing, and recording are one transaction of the store, so a token works once, whoever races for
it. A repeat with the same keys gets the same answer: requests are compared by their keys, because the signature on a
request for the same key differs each time.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address

import structlog

from decnet_core.enrolment import JoinReply, JoinRequest
from decnet_core.errors import RemoteProtocolError
from decnet_core.identity import WORKER_ROLES, Identity, Role
from decnet_core.pki.authority import CertificateAuthority
from decnet_core.pki.certificates import fingerprint, load_csr_key, public_key_fingerprint
from decnet_core.pki.verification import load_certificates
from decnet_master.enrolment.tokens import hash_secret
from decnet_master.store import IssuedCertificate, Redemption, Store

CERTIFICATE_LIFETIME = timedelta(days=90)

log = structlog.get_logger()


class Registrar:
    """Answers join requests."""

    def __init__(self, store: Store, authority: CertificateAuthority, listener_port: int) -> None:
        self._store = store
        self._authority = authority
        self._listener_port = listener_port

    @property
    def ca_pem(self) -> bytes:
        """The CA's certificate, which a worker holds against the pin in its token."""
        return self._authority.certificate_pem

    async def join(self, request: JoinRequest, came_from: str, now: datetime) -> str:
        """Redeem a token; return the JSON of a JoinReply.

        Args:
            request: from the worker.
            came_from: the address of its connection.
            now: aware UTC.

        Raises:
            TrustError: the token is not known, has ended or was used for other keys.
            RemoteProtocolError: a certificate request is missing, not wanted, or cannot be taken.
        """
        advice = "Join with `decnet-agent join` of the same release."
        if Role.AGENT not in request.csrs or not request.csrs.keys() <= set(WORKER_ROLES):
            raise RemoteProtocolError("A worker asks for the identities agent, logship and updater", advice)
        address = _address(request.address or came_from)
        digest = _digest(request)

        def issue(host: str) -> Redemption:
            return self._issue(request, host, address, now)

        reply = await self._store.hosts.redeem(request.token_id, hash_secret(request.secret), digest, now, issue)
        log.info("host.enrolled", host=JoinReply.model_validate_json(reply).host, address=address)
        return reply

    def _issue(self, request: JoinRequest, host: str, address: str, now: datetime) -> Redemption:
        certificates: dict[Role, str] = {}
        issued = []
        for role, csr in request.csrs.items():
            identity = Identity(role, host)
            pem = self._authority.issue(
                csr.encode(), identity, ips=_ips(address), now=now, lifetime=CERTIFICATE_LIFETIME
            )
            certificates[role] = pem.decode()
            leaf = load_certificates(pem)[0]
            issued.append(IssuedCertificate(fingerprint(leaf), str(identity), leaf.not_valid_after_utc))
        reply = JoinReply(
            host=host,
            ca_pem=self._authority.certificate_pem.decode(),
            certificates=certificates,
            listener_port=self._listener_port,
        )
        return Redemption(
            reply=reply.model_dump_json(),
            address=address,
            agent_port=request.agent_port,
            updater_port=request.updater_port,
            version=request.version,
            certificates=tuple(issued),
        )


def _digest(request: JoinRequest) -> str:
    keys = [
        f"{role}={public_key_fingerprint(load_csr_key(csr.encode()))}" for role, csr in sorted(request.csrs.items())
    ]
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def _address(text: str) -> str:
    """Take an address or a DNS name that the master can put into a URL.

    Raises:
        RemoteProtocolError: it is neither.
    """
    if ips := _ips(text):
        # An IPv4 worker that came in through an IPv6 socket.
        return str(getattr(ips[0], "ipv4_mapped", None) or ips[0])
    if all(part and part.replace("-", "").isalnum() and part.isascii() for part in text.split(".")):
        return text
    raise RemoteProtocolError("The worker's address is neither an IP address nor a name", "Correct its address.")


def _ips(address: str) -> list[IPv4Address | IPv6Address]:
    try:
        return [ip_address(address)]
    except ValueError:
        return []
