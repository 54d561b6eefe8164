from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from decnet_core.errors import ConfigError, RemoteProtocolError, TrustError
from decnet_core.pki import certificates
from decnet_core.pki.authority import CA_LIFETIME, CertificateAuthority
from decnet_core.pki.verification import load_certificates, verify_chain
from tests.pki.world import AGENT, DAY, Ca

NOW = datetime(2031, 5, 4, 12, tzinfo=UTC)
SECRET = b"correct horse"


def opened(folder, passphrase=None, now=NOW, name="DECNET CA") -> CertificateAuthority:
    return CertificateAuthority.open_or_create(folder, name, passphrase, now)


def issued(authority, now=NOW) -> x509.Certificate:
    csr = certificates.make_csr(certificates.generate_key(), AGENT)
    return load_certificates(authority.issue(csr, AGENT, now=now, lifetime=DAY))[0]


@pytest.mark.parametrize("passphrase", [None, SECRET])
def test_opening_is_idempotent(tmp_path, passphrase):
    first = opened(tmp_path / "ca", passphrase)
    second = opened(tmp_path / "ca", passphrase, NOW + DAY, "Another name")
    assert first.certificate_pem == second.certificate_pem
    assert first.fingerprint == second.fingerprint == certificates.fingerprint(first.certificate)
    assert verify_chain(issued(second), [first.certificate], NOW) == AGENT
    assert sorted(path.name for path in (tmp_path / "ca").iterdir()) == ["ca.crt", "ca.key"]


def test_the_key_is_0600_whatever_the_umask(tmp_path):
    before = os.umask(0o000)
    try:
        opened(tmp_path / "ca")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ca" / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700


def test_the_key_is_encrypted_if_there_is_a_passphrase(tmp_path):
    opened(tmp_path, SECRET)
    assert b"ENCRYPTED PRIVATE KEY" in (tmp_path / "ca.key").read_bytes()


@pytest.mark.parametrize(
    ("made_with", "opened_with", "message"),
    [
        (SECRET, b"wrong", "cannot be decrypted"),
        (SECRET, None, "encrypted and no passphrase"),
        (None, SECRET, "not encrypted although"),
        (None, b"", "passphrase of the CA is empty"),
    ],
)
def test_a_passphrase_that_does_not_fit(tmp_path, made_with, opened_with, message):
    opened(tmp_path, made_with)
    with pytest.raises(ConfigError, match=message) as caught:
        opened(tmp_path, opened_with)
    assert caught.value.advice
    assert "correct horse" not in caught.value.message + caught.value.advice


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path, mode):
    opened(tmp_path)
    (tmp_path / "ca.key").chmod(mode)
    with pytest.raises(TrustError, match="may be used by others") as caught:
        opened(tmp_path)
    assert "chmod 600" in caught.value.advice


def test_a_crash_after_the_key_is_completed(tmp_path):
    key = opened(tmp_path) and (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.crt").unlink()
    (tmp_path / ".ca.key.0011223344556677.tmp").write_bytes(b"half a k")
    again = opened(tmp_path)
    assert (tmp_path / "ca.key").read_bytes() == key
    assert verify_chain(issued(again), [again.certificate], NOW) == AGENT


def test_a_certificate_without_its_key_is_left_alone(tmp_path):
    opened(tmp_path)
    (tmp_path / "ca.key").unlink()
    before = (tmp_path / "ca.crt").read_bytes()
    with pytest.raises(ConfigError, match=r"no ca\.key beside it"):
        opened(tmp_path)
    assert (tmp_path / "ca.crt").read_bytes() == before
    assert not (tmp_path / "ca.key").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"garbage", "is not the certificate of a CA"),
        (b"", "is not the certificate of a CA"),
        (Ca.make(NOW).pem, "is not the certificate of the key"),
    ],
)
def test_a_certificate_that_does_not_fit_is_refused(tmp_path, content, message):
    opened(tmp_path)
    (tmp_path / "ca.crt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path)


@pytest.mark.parametrize("passphrase", [None, SECRET])
def test_a_damaged_key_is_refused(tmp_path, passphrase):
    opened(tmp_path, passphrase)
    (tmp_path / "ca.key").write_bytes((tmp_path / "ca.key").read_bytes()[:100])
    with pytest.raises(ConfigError):
        opened(tmp_path, passphrase)


def test_a_leaf_beside_its_key_is_no_ca(tmp_path):
    key = certificates.generate_key()
    (tmp_path / "ca.key").touch(mode=0o600)
    (tmp_path / "ca.key").write_bytes(certificates.key_pem(key))
    (tmp_path / "ca.crt").write_bytes(certificates.certificate_pem(Ca.make(NOW).issue(AGENT, key, NOW)))
    with pytest.raises(ConfigError, match="not the certificate of a CA"):
        opened(tmp_path)


def test_an_expired_ca_is_refused(tmp_path):
    opened(tmp_path)
    with pytest.raises(TrustError, match="expired"):
        opened(tmp_path, now=NOW + CA_LIFETIME)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "ca").touch()
    with pytest.raises(ConfigError, match="cannot be read or written"):
        opened(tmp_path / "ca")


def test_of_many_that_create_at_once_one_wins(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: opened(tmp_path / "ca"), range(8)))
    assert len({authority.fingerprint for authority in made}) == 1
    assert sorted(path.name for path in (tmp_path / "ca").iterdir()) == ["ca.crt", "ca.key"]


def test_a_request_that_cannot_be_taken_is_refused(tmp_path):
    with pytest.raises(RemoteProtocolError):
        opened(tmp_path).issue(b"garbage", AGENT, now=NOW, lifetime=DAY)


def test_an_older_rsa_ca_is_used_as_it_is(tmp_path):
    """RSA-4096, the traditional key format, and a certificate without key usage or identifiers."""
    key = rsa.generate_private_key(65537, 4096)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "decnet-ca")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 300 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (tmp_path / "ca.key").touch(mode=0o600)
    (tmp_path / "ca.key").write_bytes(pem)
    (tmp_path / "ca.crt").write_bytes(certificates.certificate_pem(certificate))
    authority = opened(tmp_path)
    assert authority.fingerprint == certificate.fingerprint(hashes.SHA256()).hex()
    assert verify_chain(issued(authority), [certificate], NOW) == AGENT
    assert (tmp_path / "ca.key").read_bytes() == pem
