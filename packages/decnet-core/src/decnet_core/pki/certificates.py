"""Build DECNET's certificates: keys, requests, the CA's own and the leaves that it issues.

Pure: no file, no clock; the time, the serial number and the keys are arguments.

Invariants of a leaf
- It says what the CA was told and nothing that the request says: of a request only the public key is taken, after
  its signature, type and size were checked. A request that asks for CA rights or for other names gains nothing.
- One URI SAN `decnet:role@host` and a CN equal to it; the host's name, extra DNS names and addresses beside it.
  Only the master may hold one of the names that stand for the master. An operator is no host and has no such name.
- Extended key usage by role. logship and operators only ever dial, so their certificates cannot answer a connection.
- It never outlives its issuer. Its start lies 5 minutes back: a worker's clock may be behind.

It does not judge certificates (`verification`) and keeps nothing (`authority`, `keystore`).
Source: RFC 5280 (profile), RFC 2986 (requests).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from decnet_core.errors import ConfigError, IdentityNotBegun, LocalProtocolError, RemoteProtocolError, TrustError
from decnet_core.identity import (
    MASTER_HOST,
    MAX_HOST_LENGTH,
    MAX_OPERATOR_LENGTH,
    RESERVED_HOSTS,
    URI_SCHEME,
    Identity,
    Role,
)
from decnet_core.pki import der

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
IPAddress = IPv4Address | IPv6Address

CLOCK_SKEW = timedelta(minutes=5)
"""How far back a certificate's validity begins."""

MAX_CSR_BYTES = 16 * 1024
"""A request for an RSA-8192 key with a page of attributes is a quarter of this."""

MAX_NAMES = 32
"""Extra DNS names, and addresses, of one certificate: more interfaces than a worker has."""

_DER = serialization.Encoding.DER
_RSA_BITS = range(2048, 8192 + 1)  # below is breakable, above costs the verifier seconds
_CURVES = (ec.SECP256R1, ec.SECP384R1)
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")
_SERIAL_BITS = 159  # RFC 5280, 4.1.2.2: positive and at most 20 octets, so the top bit stays free


def generate_key() -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key: what every identity and, by default, the CA uses."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    """Write a private key as PKCS#8 PEM, encrypted if a passphrase is given."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Write a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint(certificate: x509.Certificate | bytes) -> str:
    """Return the SHA-256 of a certificate's DER (given as such or parsed), 64 lower-case hex digits."""
    return der.fingerprint(certificate if isinstance(certificate, bytes) else certificate.public_bytes(_DER))


def make_csr(key: PrivateKey, identity: Identity) -> bytes:
    """Write the PEM request for a key; the name in it is a courtesy to whoever reads it, the CA ignores it.

    Raises:
        ConfigError: the host's name is longer than 56 characters, or an operator's than 55.
    """
    request = x509.CertificateSigningRequestBuilder().subject_name(_subject_of(identity))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def load_csr_key(csr_pem: bytes) -> PublicKey:
    """Take the public key out of a request, and nothing else.

    Raises:
        RemoteProtocolError: no request, over 16 KiB, not signed by its own key, or a key of a type or size that
            no DECNET program makes (P-256, P-384 and RSA of 2048 to 8192 bits are taken).
    """
    advice = "Make the request with `decnet-agent join`, or with a P-256 key."
    if len(csr_pem) > MAX_CSR_BYTES:
        raise RemoteProtocolError(f"The certificate request is longer than {MAX_CSR_BYTES} bytes", advice)
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise RemoteProtocolError("The certificate request cannot be read", advice) from error
    # The size first: checking a signature is what an oversized key makes expensive.
    if not isinstance(key, PublicKey) or not _is_accepted(key):
        raise RemoteProtocolError("The certificate request holds a key of a type or size that is not taken", advice)
    try:
        signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise RemoteProtocolError("The certificate request's signature cannot be checked", advice) from error
    if not signed:
        raise RemoteProtocolError("The certificate request is not signed by its own key", advice)
    return key


def asks_for_more(csr_pem: bytes, identity: Identity) -> bool:
    """Tell whether a request says more than `make_csr` writes for an identity: another name, rights, names of hosts.

    Nobody is given it: the CA takes the key alone. But who asks for it is no program of ours, which is worth telling.
    What it says is compared and never parsed, so that there is no request of which this cannot be told.

    Args:
        csr_pem: a request that `load_csr_key` takes.
        identity: whose certificate its key gets.
    """
    request = x509.load_pem_x509_csr(csr_pem)
    key = request.public_key().public_bytes(_DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    # RFC 2986 section 4.1: version v1(0), subject, key, and no attribute; before it stands its length.
    said = b"\x02\x01\x00" + _subject_of(identity).public_bytes() + key + b"\xa0\x00"
    return not (request.tbs_certrequest_bytes.endswith(said) and len(request.tbs_certrequest_bytes) <= len(said) + 4)


def public_key_fingerprint(key: PublicKey) -> str:
    """Return the SHA-256 of a key's SubjectPublicKeyInfo: equal for two requests of one key.

    ECDSA signatures are random, so the requests of a retry differ although they ask for the same certificate.
    """
    return der.fingerprint(key.public_bytes(_DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def self_signed_ca(key: PrivateKey, name: str, *, serial: int, now: datetime, lifetime: timedelta) -> x509.Certificate:
    """Build a root that may sign leaves and lists of revoked ones, and no other CA.

    Raises:
        ConfigError: the name does not fit a CN.
        LocalProtocolError: a naive time, a serial number or a lifetime out of range.
    """
    if not 1 <= len(name) <= 64:
        raise ConfigError("The CA's name must have 1 to 64 characters", "Choose a shorter name.")
    subject = _subject(name)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _builder(subject, subject, key.public_key(), serial=serial, now=now, not_after=now + lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    builder = builder.add_extension(identifier, critical=False)
    return builder.sign(key, hashes.SHA256())


def issue_leaf(
    key: PublicKey,
    identity: Identity,
    *,
    dns: Sequence[str] = (),
    ips: Sequence[IPAddress] = (),
    issuer: x509.Certificate,
    issuer_key: PrivateKey,
    serial: int,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    """Build the certificate of an identity.

    Args:
        key: from `load_csr_key`.
        dns: names beside the host's own, lower case, at most 32.
        ips: addresses that the identity answers on, at most 32.
        lifetime: cut where the issuer ends.

    Raises:
        ConfigError: a name that is none, or too many.
        IdentityNotBegun: the issuer's time has not come.
        TrustError: the identity or a name stands for the master and the other does not; the issuer has ended.
        LocalProtocolError: a naive time, a serial number or a lifetime out of range.
    """
    _check_names(identity, dns, ips)
    if now.tzinfo is None:
        raise LocalProtocolError("A certificate needs an aware time")
    not_after = min(now + lifetime, issuer.not_valid_after_utc)
    if now < issuer.not_valid_before_utc:
        since = issuer.not_valid_before_utc.isoformat()
        raise IdentityNotBegun(f"The CA's certificate is not valid before {since}", "Set this host's clock.")
    if now >= not_after:
        raise TrustError("The CA's certificate is not valid at this time", "Check the clock, or make a new CA.")
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"{URI_SCHEME}{identity}")]
    own = () if identity.role is Role.OPERATOR else (identity.host,)
    names += [x509.DNSName(name) for name in dict.fromkeys((*own, *dns))]
    names += [x509.IPAddress(ip) for ip in dict.fromkeys(ips)]
    builder = _builder(_subject_of(identity), issuer.subject, key, serial=serial, now=now, not_after=not_after)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(_purposes(identity.role)), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    builder = builder.add_extension(_authority_key_identifier(issuer, issuer_key), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _is_accepted(key: PublicKey) -> bool:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, _CURVES)
    return key.key_size in _RSA_BITS


def _check_names(identity: Identity, dns: Sequence[str], ips: Sequence[IPAddress]) -> None:
    if (identity.role is Role.MASTER) != (identity.host == MASTER_HOST):
        raise TrustError(f"No certificate is issued for {identity}", f"The master is master@{MASTER_HOST}, alone.")
    if len(dns) > MAX_NAMES or len(ips) > MAX_NAMES:
        raise ConfigError(f"A certificate holds at most {MAX_NAMES} names and addresses", "Name fewer.")
    for name in dns:
        if not _DNS_NAME.fullmatch(name):
            raise ConfigError(f"{name[:80]!r} is not a lower-case DNS name", "Write it without port or wildcard.")
    if identity.role is not Role.MASTER and not RESERVED_HOSTS.isdisjoint((identity.host, *dns)):
        raise TrustError(f"{identity} asks for a name that stands for the master", "Choose another name.")


def _purposes(role: Role) -> list[x509.ObjectIdentifier]:
    if role in {Role.LOGSHIP, Role.OPERATOR}:
        return [ExtendedKeyUsageOID.CLIENT_AUTH]
    return [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, *, serial: int, now: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    if now.tzinfo is None or not_after <= now or not 0 < serial.bit_length() <= _SERIAL_BITS or serial < 0:
        raise LocalProtocolError("A certificate needs an aware time, a lifetime and a positive serial of 159 bits")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before((now - CLOCK_SKEW).astimezone(UTC))
        .not_valid_after(not_after.astimezone(UTC))
    )


def _authority_key_identifier(issuer: x509.Certificate, issuer_key: PrivateKey) -> x509.AuthorityKeyIdentifier:
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:  # older CAs of this product wrote none
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _subject_of(identity: Identity) -> x509.Name:
    longest = MAX_OPERATOR_LENGTH if identity.role is Role.OPERATOR else MAX_HOST_LENGTH
    if len(identity.host) > longest:
        raise ConfigError(f"The name in {identity} is longer than {longest} characters", "Choose a shorter name.")
    return _subject(str(identity))


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
