"""Judge a certificate outside a connection: whose it is, and whether one of our roots vouches for it now.

The path is checked by `cryptography.x509.verification` (RFC 5280 in its Web PKI profile). What that demands and
what we changed, as tried with its version 50:
- As a client it wants a SAN and never looks at the CN; as a server it wants a DNS name (or an address) that the SAN
  holds. Neither looks at URI names. So the identity, and that the CN equals it, are checked here.
- An absent extended key usage passes by default. Here it is required, and requiring it replaces the library's own
  look at its value, so the value is checked here as well.
- Of a root it demands key usage, which older RSA CAs of this product do not carry. Here a root must be a CA by its
  critical basic constraints and, if it states key usage, may sign certificates.
The dates are looked at before the path, only so that the message says which end was missed.

Connections do not come through here: OpenSSL verifies them (`tls`), `decnet_core.peer` reads the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from decnet_core.errors import RemoteProtocolError, TrustError
from decnet_core.identity import Identity, identity_of_peer
from decnet_core.pki.der import Usage, usages

MAX_PEM_BYTES = 64 * 1024
"""Far above any certificate or bundle of roots that DECNET writes."""

_ENROL_AGAIN = "Enrol the peer again; it must use the certificate that `join` stored."

MAX_ROOTS = 4
"""One, or two while the CA is changed."""

_UNREADABLE = (
    ValueError,
    TypeError,  # of a name whose type does not fit its text's
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
"""What the library raises for certificates that it cannot read."""


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """Parse one or more PEM certificates.

    Raises:
        RemoteProtocolError: none, over 64 KiB, or one that cannot be read.
    """
    if len(pem) > MAX_PEM_BYTES:
        raise RemoteProtocolError(f"The certificate file is longer than {MAX_PEM_BYTES} bytes", _ENROL_AGAIN)
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        for certificate in certificates:  # the library reads these when they are asked for, which is too late
            _ = certificate.subject, certificate.issuer, certificate.extensions
    except _UNREADABLE as error:
        raise RemoteProtocolError("The certificate cannot be read", _ENROL_AGAIN) from error
    return certificates


def load_roots(pem: bytes, at: datetime) -> list[x509.Certificate]:
    """Parse the CAs that a master says are to be trusted.

    Raises:
        RemoteProtocolError: none, more than 4, or one that is not the certificate of a CA.
        TrustError: one of them is not valid at that time.
    """
    roots = load_certificates(pem)
    if len(roots) > MAX_ROOTS:
        raise RemoteProtocolError(f"More than {MAX_ROOTS} CAs are to be trusted", _ENROL_AGAIN)
    for root in roots:
        try:
            is_ca = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            is_ca = False
        if not is_ca or root.issuer != root.subject:
            raise RemoteProtocolError("What is to be trusted is not the certificate of a CA", _ENROL_AGAIN)
        _check_dates(root, at)
    return roots


def verify_chain(
    leaf: x509.Certificate,
    roots: Sequence[x509.Certificate],
    at: datetime,
    *,
    usage: Usage = Usage.CLIENT,
    expected: Identity | None = None,
) -> Identity:
    """Return whose certificate it is, after all that can be checked of it was.

    Args:
        leaf: the certificate, issued by a root directly.
        roots: the CAs that are trusted: one, or two while they are changed.
        at: the aware time of the question.
        usage: what the holder would use it for.
        expected: the only identity that will do.

    Raises:
        TrustError: expired, not yet valid, of another CA, of another identity, or not for this usage.
    """
    _check_dates(leaf, at)
    identity = identity_in(leaf)
    if expected is not None and identity != expected:
        raise TrustError(f"The certificate is of {identity}, not of {expected}", _ENROL_AGAIN)
    try:
        if usage not in usages(leaf.public_bytes(serialization.Encoding.DER)):
            raise TrustError(f"The certificate of {identity} is not for a {usage.name.lower()}", _ENROL_AGAIN)
    except RemoteProtocolError as error:
        raise TrustError(f"The certificate of {identity} cannot be read", _ENROL_AGAIN) from error
    _check_path(leaf, roots, at, usage, identity)
    return identity


def identity_in(certificate: x509.Certificate) -> Identity:
    """Read the identity that a certificate names; it proves nothing by itself.

    Raises:
        TrustError: not exactly one DECNET identity, or a CN that says something else.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise TrustError("The certificate names no DECNET identity", _ENROL_AGAIN) from error
    subject = tuple(
        (("commonName", str(attribute.value)),)
        for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    )
    uris = tuple(("URI", uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier))
    return identity_of_peer({"subject": subject, "subjectAltName": uris})


def _check_dates(leaf: x509.Certificate, at: datetime) -> None:
    if at < leaf.not_valid_before_utc:
        since = leaf.not_valid_before_utc.isoformat()
        raise TrustError(f"The certificate is not valid before {since}", "Set the clocks of both hosts.")
    if at > leaf.not_valid_after_utc:
        until = leaf.not_valid_after_utc.isoformat()
        raise TrustError(f"The certificate expired at {until}", "Renew it, or enrol the host again.")


def _check_path(
    leaf: x509.Certificate, roots: Sequence[x509.Certificate], at: datetime, usage: Usage, identity: Identity
) -> None:
    if not roots:
        raise TrustError("There is no CA to check a certificate against", "Run `decnet-agent join` first.")
    leaf_policy = ExtensionPolicy.webpki_defaults_ee().require_present(
        x509.ExtendedKeyUsage, Criticality.AGNOSTIC, None
    )
    root_policy = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.CRITICAL, None)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)
    )
    builder = PolicyBuilder().store(Store(list(roots))).time(at).max_chain_depth(0)
    builder = builder.extension_policies(ee_policy=leaf_policy, ca_policy=root_policy)
    try:
        if usage is Usage.CLIENT:
            builder.build_client_verifier().verify(leaf, [])
        else:
            builder.build_server_verifier(x509.DNSName(identity.host)).verify(leaf, [])
    except VerificationError as error:
        raise TrustError(f"No trusted CA vouches for the certificate of {identity}", _ENROL_AGAIN) from error


def _may_sign(_policy: Policy, _certificate: x509.Certificate, extension: x509.KeyUsage | None) -> None:
    if extension is not None and not extension.key_cert_sign:
        raise ValueError("this key may not sign certificates")
