from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from decnet_core.errors import ConfigError, IdentityNotBegun, LocalProtocolError, RemoteProtocolError, TrustError
from decnet_core.identity import MASTER, MAX_HOST_LENGTH, MAX_OPERATOR_LENGTH, Identity, Role
from decnet_core.pki import certificates, der
from decnet_core.pki.verification import verify_chain
from tests.pki.world import AGENT, CLIENT, DAY, LOGSHIP, SERVER, Ca

NOW = datetime(2031, 5, 4, 12, tzinfo=UTC)
UPDATER = Identity(Role.UPDATER, "web-1")


@pytest.fixture(scope="module")
def ca() -> Ca:
    return Ca.make(NOW)


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return certificates.generate_key()


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def names(certificate):
    return extension(certificate, x509.SubjectAlternativeName).value


def signed_csr(key, *extensions, algorithm=None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(MASTER))])
    )
    for value in extensions:
        builder = builder.add_extension(value, critical=True)
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def test_a_ca_may_sign_leaves_and_nothing_longer(ca):
    constraints = extension(ca.certificate, x509.BasicConstraints)
    usage = extension(ca.certificate, x509.KeyUsage)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)
    assert ca.certificate.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert isinstance(ca.key.curve, ec.SECP256R1)
    ca.certificate.verify_directly_issued_by(ca.certificate)


def test_a_leaf_says_what_the_ca_was_told(ca, key):
    leaf = ca.issue(AGENT, key, NOW, dns=["web-1.lan", "web-1"], ips=[ip_address("10.1.2.3"), ip_address("fd00::1")])
    assert leaf.subject.rfc4514_string() == "CN=agent@web-1"
    assert names(leaf).get_values_for_type(x509.UniformResourceIdentifier) == ["decnet:agent@web-1"]
    assert names(leaf).get_values_for_type(x509.DNSName) == ["web-1", "web-1.lan"]
    assert [str(ip) for ip in names(leaf).get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "fd00::1"]
    assert extension(leaf, x509.BasicConstraints).critical
    assert not extension(leaf, x509.BasicConstraints).value.ca
    usage = extension(leaf, x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    authority = extension(leaf, x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == extension(ca.certificate, x509.SubjectKeyIdentifier).value.digest
    assert extension(leaf, x509.SubjectKeyIdentifier).value == x509.SubjectKeyIdentifier.from_public_key(
        key.public_key()
    )
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (NOW - timedelta(minutes=5), NOW + DAY)
    leaf.verify_directly_issued_by(ca.certificate)


@pytest.mark.parametrize(
    ("identity", "purposes"),
    [(MASTER, {SERVER, CLIENT}), (AGENT, {SERVER, CLIENT}), (UPDATER, {SERVER, CLIENT}), (LOGSHIP, {CLIENT})],
    ids=str,
)
def test_usage_follows_the_role(ca, key, identity, purposes):
    assert set(extension(ca.issue(identity, key, NOW), x509.ExtendedKeyUsage).value) == purposes


def test_the_serial_number_is_the_callers(ca, key):
    assert ca.issue(AGENT, key, NOW, serial=4711).serial_number == 4711


def test_a_leaf_never_outlives_its_issuer(ca, key):
    leaf = ca.issue(AGENT, key, NOW, lifetime=4000 * DAY)
    assert leaf.not_valid_after_utc == ca.certificate.not_valid_after_utc


@pytest.mark.parametrize(("days", "error"), [(-1, IdentityNotBegun), (365, TrustError)])
def test_a_ca_issues_only_while_it_is_valid(ca, key, days, error):
    with pytest.raises(TrustError, match="CA's certificate is not valid") as refused:
        ca.issue(AGENT, key, NOW + days * DAY)
    assert type(refused.value) is error


def test_a_request_gains_nothing_by_what_it_asks_for(ca, key):
    greedy = signed_csr(
        key,
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName(
            [x509.DNSName("decnet-master"), x509.UniformResourceIdentifier(f"decnet:{MASTER}")]
        ),
        algorithm=hashes.SHA256(),
    )
    leaf = certificates.issue_leaf(
        certificates.load_csr_key(greedy),
        LOGSHIP,
        issuer=ca.certificate,
        issuer_key=ca.key,
        serial=1,
        now=NOW,
        lifetime=DAY,
    )
    assert leaf.subject.rfc4514_string() == "CN=logship@web-1"
    assert list(names(leaf)) == [x509.UniformResourceIdentifier("decnet:logship@web-1"), x509.DNSName("web-1")]
    assert not extension(leaf, x509.BasicConstraints).value.ca


UNREADABLE = x509.UnrecognizedExtension(x509.NameConstraints.oid, b"\xff")


@pytest.mark.parametrize("make", [certificates.generate_key, lambda: rsa.generate_private_key(65537, 2048)])
def test_a_request_of_ours_asks_for_no_more_than_it_gets(make):
    key = make()
    honest = certificates.make_csr(key, AGENT)
    assert not certificates.asks_for_more(honest, AGENT)
    assert certificates.asks_for_more(honest, LOGSHIP)
    assert certificates.asks_for_more(honest, Identity(Role.AGENT, AGENT.host[:-1]))


@pytest.mark.parametrize(
    "value",
    [
        x509.BasicConstraints(ca=True, path_length=0),
        x509.SubjectAlternativeName([x509.DNSName("decnet-master")]),
        x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.UnrecognizedExtension(x509.NameConstraints.oid, b"\xff"),
    ],
    ids=["a CA's rights", "a name", "a usage", "unreadable"],
)
def test_a_request_that_asks_for_more_is_known_as_such(key, value):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(AGENT))])
    greedy = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(value, critical=True)
    assert certificates.asks_for_more(greedy.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), AGENT)


def tampered_csr() -> bytes:
    pem = certificates.make_csr(certificates.generate_key(), AGENT)
    request = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    at = request.index(b"agent@")
    request[at : at + 6] = b"tnega@"
    return x509.load_der_x509_csr(bytes(request)).public_bytes(serialization.Encoding.PEM)


def csr_of_another_version() -> bytes:
    pem = certificates.make_csr(certificates.generate_key(), AGENT)
    body = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    at = body.index(b"\x02\x01\x00")  # RFC 2986 section 4.1: version INTEGER { v1(0) }
    return (
        ssl.DER_cert_to_PEM_cert(body[:at] + b"\x02\x01\x20" + body[at + 3 :])
        .encode()
        .replace(b"CERTIFICATE", b"CERTIFICATE REQUEST")
    )


REFUSED_REQUESTS = {
    "garbage": lambda: b"\x00\xffnot a request",
    "empty": lambda: b"",
    "broken pem": lambda: b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    "too long": lambda: certificates.make_csr(certificates.generate_key(), AGENT) + b"\n" * certificates.MAX_CSR_BYTES,
    "tampered": tampered_csr,
    "another version": csr_of_another_version,
    "RSA-1024": lambda: signed_csr(rsa.generate_private_key(65537, 1024), algorithm=hashes.SHA256()),  # noqa: S505
    "P-521": lambda: signed_csr(ec.generate_private_key(ec.SECP521R1()), algorithm=hashes.SHA256()),
    "Ed25519": lambda: signed_csr(ed25519.Ed25519PrivateKey.generate()),
}


@pytest.mark.parametrize("kind", REFUSED_REQUESTS)
def test_a_request_that_cannot_be_taken_is_the_peers_fault(kind):
    with pytest.raises(RemoteProtocolError) as caught:
        certificates.load_csr_key(REFUSED_REQUESTS[kind]())
    assert caught.value.advice


@pytest.mark.parametrize(
    "make", [lambda: ec.generate_private_key(ec.SECP384R1()), lambda: rsa.generate_private_key(65537, 2048)]
)
def test_other_accepted_keys(make):
    key = make()
    assert certificates.load_csr_key(certificates.make_csr(key, AGENT)) == key.public_key()


def test_two_requests_of_one_key_are_known_as_such(key):
    first, second = (certificates.make_csr(key, AGENT) for _ in range(2))
    assert first != second
    prints = {certificates.public_key_fingerprint(certificates.load_csr_key(csr)) for csr in (first, second)}
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("identity", "dns", "error"),
    [
        (AGENT, ["decnet-master"], TrustError),
        (AGENT, ["localhost"], TrustError),
        (Identity(Role.AGENT, "decnet-master"), [], TrustError),
        (Identity(Role.MASTER, "web-1"), [], TrustError),
        (AGENT, ["*.lan"], ConfigError),
        (AGENT, ["Web-1"], ConfigError),
        (AGENT, ["a" * 64], ConfigError),
        (AGENT, [""], ConfigError),
        (AGENT, ["a b\n"], ConfigError),
        (AGENT, [".".join(["a" * 60] * 5)], ConfigError),
        (AGENT, [f"n{number}" for number in range(33)], ConfigError),
        (Identity(Role.UPDATER, "h" * 57), [], ConfigError),
        (Identity(Role.OPERATOR, "o" * 56), [], ConfigError),
        (Identity(Role.OPERATOR, "decnet-master"), [], TrustError),
    ],
)
def test_names_that_no_certificate_gets(ca, key, identity, dns, error):
    with pytest.raises(error):
        ca.issue(identity, key, NOW, dns=dns)


def test_the_longest_host_name_fits_every_role(ca, key):
    for role in (Role.AGENT, Role.LOGSHIP, Role.UPDATER):
        ca.issue(Identity(role, "h" * MAX_HOST_LENGTH), key, NOW)
    ca.issue(Identity(Role.OPERATOR, "o" * MAX_OPERATOR_LENGTH), key, NOW)


def test_an_operator_answers_no_connections_and_has_no_name_of_a_host(ca, key):
    alice = Identity(Role.OPERATOR, "alice")
    leaf = ca.issue(alice, key, NOW)
    assert list(names(leaf)) == [x509.UniformResourceIdentifier("decnet:operator@alice")]
    assert list(extension(leaf, x509.ExtendedKeyUsage).value) == [CLIENT]
    assert verify_chain(leaf, [ca.certificate], NOW, usage=der.Usage.CLIENT, expected=alice) == alice
    with pytest.raises(TrustError, match="not for a server"):
        verify_chain(leaf, [ca.certificate], NOW, usage=der.Usage.SERVER)


@pytest.mark.parametrize(
    "named",
    [{"serial": 0}, {"serial": -1}, {"serial": 1 << 159}, {"at": NOW.replace(tzinfo=None)}],
)
def test_our_own_mistakes_are_named_so(ca, key, named):
    with pytest.raises(LocalProtocolError):
        ca.issue(AGENT, key, named.pop("at", NOW), **named)


def test_the_fingerprint_is_the_sha256_of_the_der(ca):
    encoded = ca.certificate.public_bytes(serialization.Encoding.DER)
    assert certificates.fingerprint(ca.certificate) == certificates.fingerprint(encoded) == der.fingerprint(encoded)
    assert certificates.fingerprint(ca.certificate) == ca.certificate.fingerprint(hashes.SHA256()).hex()


@pytest.mark.parametrize("name", ["", "n" * 65])
def test_a_ca_needs_a_name_that_fits(name):
    with pytest.raises(ConfigError):
        Ca.make(NOW, name)
