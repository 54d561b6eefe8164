"""Trade a join token, or a certificate that is about to end, for a worker's certificates.

Of a request only the keys are taken: the names in the certificates come from the token, as the operator gave them, or
from the certificate that the connection was made with. Checking, issuing, and recording are one transaction of the
store: a token works once, whoever races for it, and a key is given one certificate. A repeat with the same keys gets
the same answer: requests are compared by their keys, because the signature on a request for the same key differs each
time.

Renewing is the agent's alone, for all identities of its host: one process of a worker renews them all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address

import structlog

from decnet_core.enrolment import JoinReply, JoinRequest, RenewReply, RenewRequest
from decnet_core.errors import RemoteProtocolError, TrustError
from decnet_core.identity import WORKER_ROLES, Identity, Role
from decnet_core.peer import Peer
from decnet_core.pki.certificates import asks_for_more
from decnet_master.enrolment.issuer import Issuer, key_digest
from decnet_master.enrolment.tokens import hash_secret
from decnet_master.store import IssuedCertificate, Redemption, Store

log = structlog.get_logger()

_SAME_RELEASE = "Run `decnet-agent` of the same release as the master."


class Registrar:
    """Answers those who join or renew."""

    def __init__(self, store: Store, issuer: Issuer, listener_port: int) -> None:
        self._store = store
        self._issuer = issuer
        self._listener_port = listener_port

    @property
    def ca_pem(self) -> bytes:
        """The certificate of the CA that a worker holds against the pin in its token."""
        return self._issuer.authorities.anchor.certificate_pem

    async def join(self, request: JoinRequest, came_from: str | None, now: datetime) -> str:
        """Redeem a token; return the JSON of a JoinReply.

        Args:
            request: from the worker.
            came_from: the address of its connection; None when the request did not come from the worker itself.
            now: aware UTC.

        Raises:
            TrustError: the token is not known, was revoked, has ended or was used for other keys, or a request asks for
                more than the token's host gets; the token stays good.
            RemoteProtocolError: a certificate request is missing, not wanted, or cannot be taken.
        """
        if Role.AGENT not in request.csrs:
            raise RemoteProtocolError("A worker that joins asks for its agent's identity", _SAME_RELEASE)
        keys = _keys(request.csrs)
        address = None if (shown := request.address or came_from) is None else _address(shown)
        digest = hashlib.sha256("\n".join(f"{role}={key}" for role, key in sorted(keys.items())).encode()).hexdigest()

        def issue(host: str) -> Redemption:
            _refuse_greed(host, request.csrs)
            issued = [
                self._issuer.issue(csr, Identity(role, host), _ips(address), now) for role, csr in request.csrs.items()
            ]
            reply = JoinReply(
                host=host,
                ca_pem=self._issuer.authorities.trusted_pem.decode(),
                certificates={Identity.parse(certificate.identity).role: certificate.pem for certificate in issued},
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

        reply = await self._store.hosts.redeem(request.token_id, hash_secret(request.secret), digest, now, issue)
        host = JoinReply.model_validate_json(reply).host
        log.info("host.enrolled", host=host, address=address)
        return reply

    async def renew(self, peer: Peer, request: RenewRequest, now: datetime) -> RenewReply:
        """Give a worker certificates for new keys.

        Args:
            peer: who shows its certificate: the agent of the host that the certificates are for.
            request: from the worker.
            now: aware UTC.

        Raises:
            TrustError: the peer is no agent, its host is not active, its certificate is not current, or a request
                asks for more than its host gets.
            RemoteProtocolError: a certificate request is not wanted, or cannot be taken.
        """
        host = peer.identity.host
        csrs = {str(Identity(role, host)): csr for role, csr in request.csrs.items()}
        keys = {str(Identity(role, host)): key for role, key in _keys(request.csrs).items()}
        _refuse_greed(host, request.csrs)

        def issue(missing: frozenset[str], address: str | None) -> tuple[IssuedCertificate, ...]:
            return tuple(
                self._issuer.issue(csrs[identity], Identity.parse(identity), _ips(address), now)
                for identity in sorted(missing)
            )

        renewed = await self._store.certificates.renew(
            peer.identity, peer.fingerprint, keys, now, issue, address=_address(peer.address)
        )
        log.info("certificates.renewed", host=host, identities=sorted(keys), issued=renewed.issued)
        return RenewReply(
            host=host,
            ca_pem=self._issuer.authorities.trusted_pem.decode(),
            certificates={Identity.parse(identity).role: pem for identity, pem in renewed.pems.items()},
        )

    async def confirm(self, peer: Peer, now: datetime) -> None:
        """Note that a worker uses the certificate that it shows.

        Raises:
            TrustError: it is not current.
        """
        if not await self._store.certificates.is_current(peer.identity, peer.fingerprint, now):
            raise TrustError(
                f"The certificate of {peer.identity} is not current here",
                "Enrol this worker again on the master (`decnet-master swarm enroll`), then run `decnet-agent join`.",
            )


def _keys(csrs: Mapping[Role, str]) -> dict[Role, str]:
    if not csrs.keys() <= set(WORKER_ROLES):
        raise RemoteProtocolError("A worker asks for the identities agent, logship and updater", _SAME_RELEASE)
    return {role: key_digest(csr) for role, csr in csrs.items()}


def _refuse_greed(host: str, csrs: Mapping[Role, str]) -> None:
    """Refuse requests that ask for another name or for rights: none would be granted, and no program of ours asks.

    Raises:
        TrustError: one does.
    """
    greedy = [
        str(Identity(role, host)) for role, csr in csrs.items() if asks_for_more(csr.encode(), Identity(role, host))
    ]
    if greedy:
        log.warning("request.overreached", identities=sorted(greedy))
        raise TrustError(
            f"The certificate request for {min(greedy)} asks for another name or for rights",
            "Join with `decnet-agent join`; if it was that which asked, this host's programs are not ours.",
        )


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


def _ips(address: str | None) -> list[IPv4Address | IPv6Address]:
    try:
        return [ip_address(address or "")]
    except ValueError:
        return []
