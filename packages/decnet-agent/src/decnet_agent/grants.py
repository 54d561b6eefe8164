"""Judge what a master grants before it is stored: the CAs to trust, and a certificate for each identity asked for.

A worker that stored what does not hold together would lock itself out for good, so everything is verified as the
peers will verify it, and more: each certificate names exactly the identity that was asked for, is vouched for by the
CAs that came with it, and states the usages of its role and no other. What joining pinned must be among the CAs; what
renews, the new CAs must vouch for the very master that sent them.

What is stored is written anew from what was read: readers of PEM differ in what they skip.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from decnet_core.errors import RemoteProtocolError, TrustError
from decnet_core.identity import MASTER, Identity, Role
from decnet_core.pki.der import Usage

if TYPE_CHECKING:
    from cryptography import x509

_AGAIN = "Run the same release on master and worker, and try again."


def judged(
    host: str,
    ca_pem: str,
    certificates: Mapping[Role, str],
    roles: Iterable[Role],
    now: datetime,
    *,
    pin: str | None = None,
    master_der: bytes | None = None,
) -> tuple[bytes, dict[Role, bytes]]:
    """Return the CAs and the certificates as they are to be stored, PEM.

    Args:
        host: this worker's name.
        ca_pem: the CAs to trust, as the master sent them.
        certificates: what the master sent.
        roles: the identities that were asked for.
        now: aware UTC.
        pin: the fingerprint of a CA that must be among them.
        master_der: the certificate of the master that sent it; the CAs must vouch for it.

    Raises:
        RemoteProtocolError: what was sent cannot be read, or lacks an identity.
        TrustError: it does not hold together.
    """
    from decnet_core.pki.certificates import certificate_pem, fingerprint  # noqa: PLC0415 - `cryptography` is 13 MB
    from decnet_core.pki.verification import load_certificates, load_roots, verify_chain  # noqa: PLC0415 - as above

    roots = load_roots(ca_pem.encode("ascii", "replace"), now)
    if pin is not None and pin not in {fingerprint(root) for root in roots}:
        raise TrustError("The master sent other CAs than the one of this join token", _AGAIN)
    if master_der is not None:
        master = load_certificates(_pem(master_der))[0]
        verify_chain(master, roots, now, usage=Usage.SERVER, expected=MASTER)
    granted = {}
    for role in roles:
        if role not in certificates:
            raise RemoteProtocolError(f"The master's answer lacks the identity {role}@{host}", _AGAIN)
        found = load_certificates(certificates[role].encode("ascii", "replace"))
        if len(found) != 1:
            raise RemoteProtocolError(f"The master sent {len(found)} certificates for {role}@{host}", _AGAIN)
        _judge_leaf(found[0], roots, Identity(role, host), now)
        granted[role] = certificate_pem(found[0])
    return b"".join(map(certificate_pem, roots)), granted


def _judge_leaf(leaf: x509.Certificate, roots: list[x509.Certificate], expected: Identity, now: datetime) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - as above

    from decnet_core.pki.der import usages  # noqa: PLC0415 - as above
    from decnet_core.pki.verification import verify_chain  # noqa: PLC0415 - as above

    verify_chain(leaf, roots, now, usage=Usage.CLIENT, expected=expected)
    if expected.role is not Role.LOGSHIP:
        verify_chain(leaf, roots, now, usage=Usage.SERVER, expected=expected)
    elif Usage.SERVER in usages(leaf.public_bytes(Encoding.DER)):
        raise TrustError(f"The certificate of {expected} is for a server, which that is none", _AGAIN)


def _pem(der: bytes) -> bytes:
    import ssl  # noqa: PLC0415 - the one use

    return ssl.DER_cert_to_PEM_cert(der).encode()
